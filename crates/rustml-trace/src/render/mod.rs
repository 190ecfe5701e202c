//! Reports for people: the same tables as Markdown and as HTML.

mod content;
mod html;
mod markdown;
mod svg;

pub use html::html;
pub use markdown::{markdown, markdown_of_comparison};
