//! What goes over the wire, one file for each endpoint.

mod chat;
mod common;
mod error;
mod models;

pub(crate) use chat::*;
pub(crate) use common::*;
pub(crate) use error::{ApiError, ErrorResponse};
pub(crate) use models::*;
