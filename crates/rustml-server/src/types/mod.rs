//! What goes over the wire, one file for each endpoint.

mod chat;
mod common;
mod completions;
mod embeddings;
mod error;
mod models;
mod read;
mod rerank;
mod responses;
mod tokenize;

pub(crate) use chat::*;
pub(crate) use common::*;
pub(crate) use completions::*;
pub(crate) use embeddings::*;
pub(crate) use error::{ApiError, ErrorResponse};
pub(crate) use models::*;
pub(crate) use read::NO_LIMIT;
pub(crate) use rerank::*;
pub(crate) use responses::*;
pub(crate) use tokenize::*;
