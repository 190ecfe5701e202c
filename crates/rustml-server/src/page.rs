//! The chat page at `/`: files of `page/`, which the binary holds.
//!
//! The page asks no other server for anything, and its policy would not let
//! it: a model's text that slipped into markup could load and run nothing.

use crate::types::ApiError;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const ICON: &str = "image/svg+xml";

/// Name, type and content of each file below `/page/`.
const FILES: [(&str, &str, &str); 9] = [
    ("api.js", SCRIPT, include_str!("page/api.js")),
    ("icon.svg", ICON, include_str!("page/icon.svg")),
    ("messages.js", SCRIPT, include_str!("page/messages.js")),
    ("page.css", CSS, include_str!("page/page.css")),
    ("page.js", SCRIPT, include_str!("page/page.js")),
    ("render.js", SCRIPT, include_str!("page/render.js")),
    ("settings.js", SCRIPT, include_str!("page/settings.js")),
    ("sidebar.js", SCRIPT, include_str!("page/sidebar.js")),
    ("store.js", SCRIPT, include_str!("page/store.js")),
];

/// `/`.
pub(crate) async fn index() -> Response {
    respond(HTML, include_str!("page/index.html"))
}

/// `/page/{name}`.
pub(crate) async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, text)) => respond(kind, text),
        None => {
            let says = format!("the page has no file {name:?}");
            let e = ApiError::new(StatusCode::NOT_FOUND, says);
            e.code("not_found").into_response()
        }
    }
}

fn respond(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        // Another build at the same address has other files.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A script or style that index.html or a module names, but that is not
    /// served, would leave a blank page.
    #[test]
    fn every_file_that_is_named_is_served() {
        let named = |text: &'static str, before: &'static str| {
            let rest = text.split(before).skip(1);
            rest.filter_map(|rest| rest.split('"').next())
        };
        let served = |name: &str| FILES.iter().any(|(known, ..)| *known == name);
        let index = include_str!("page/index.html");
        let names: Vec<_> = named(index, "\"/page/").collect();
        assert!(names.contains(&"page.js"), "{names:?}");
        let all = FILES
            .iter()
            .flat_map(|(_, _, text)| named(text, "from \"./"));
        let all: Vec<_> = all.chain(names).collect();
        assert!(all.contains(&"api.js"), "{all:?}");
        for name in all {
            assert!(served(name), "{name}");
        }
    }

    /// The policy allows no inline script, style or handler.
    #[test]
    fn the_page_has_nothing_inline() {
        let index = include_str!("page/index.html");
        assert!(!index.contains("<style") && !index.contains(" style="));
        assert!(!index.contains("<script>") && !index.contains(" onclick="));
        for (name, _, text) in FILES {
            assert!(!text.contains("innerHTML"), "{name}");
            assert!(!text.contains("https://"), "{name}");
        }
    }
}
