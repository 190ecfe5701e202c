//! Number formats and the operations that compute on them.
