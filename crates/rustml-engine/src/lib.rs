//! Requests to tokens: scheduling, sampling, text streaming.
