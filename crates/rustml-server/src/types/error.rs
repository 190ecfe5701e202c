//! Errors, in the shape that OpenAI's clients read.

use axum::http::{header, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

/// What every answer that is an error holds.
#[derive(Serialize, ToSchema)]
pub struct ErrorResponse {
    /// The error.
    pub error: ErrorBody,
}

/// An error.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// A sentence that says what was wrong and what to do.
    pub message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error` or
    /// `server_error`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: &'static str,
    /// The field that was wrong, as `messages[0].content`.
    pub param: Option<String>,
    /// A word for programs, as `model_not_found`.
    #[schema(value_type = Option<String>)]
    pub code: Option<&'static str>,
}

/// A request that is not answered as asked.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// HTTP's status.
    pub status: StatusCode,
    /// What the client reads.
    pub body: ErrorBody,
    /// Seconds after which to try again.
    pub retry_after: Option<u32>,
}

impl ApiError {
    /// An error of that status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        let kind = match status.as_u16() {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        ApiError {
            status,
            body: ErrorBody {
                message: message.into(),
                kind,
                param: None,
                code: None,
            },
            retry_after: None,
        }
    }

    /// A request that makes no sense, or that is not supported: 400.
    pub fn bad(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// As [`ApiError::bad`], for the field `param`.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::bad(message).param(param)
    }

    /// A field that is known, but not served: 400.
    pub fn unsupported(param: &str, why: &str) -> ApiError {
        ApiError::field(param, format!("{param} is not supported{why}"))
            .code("unsupported_parameter")
    }

    /// Our own mistake: 500.
    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("internal_error")
    }

    /// The queue is full: 429.
    pub fn busy() -> ApiError {
        let says = "the server is busy: its queue is full; try again later";
        let mut e = ApiError::new(StatusCode::TOO_MANY_REQUESTS, says).code("queue_full");
        e.retry_after = Some(1);
        e
    }

    /// The server cannot serve this now: 503.
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        let mut e = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code("unavailable");
        e.retry_after = Some(1);
        e
    }

    /// Names the field.
    pub fn param(mut self, param: impl Into<String>) -> ApiError {
        self.body.param = Some(param.into());
        self
    }

    /// Adds the word for programs.
    pub fn code(mut self, code: &'static str) -> ApiError {
        self.body.code = Some(code);
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = ErrorResponse { error: self.body };
        let mut response = (self.status, Json(error)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
