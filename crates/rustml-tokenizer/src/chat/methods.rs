//! Python's string methods that templates use and `minijinja-contrib` lacks.

use minijinja::value::from_args;
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Called for methods that a value does not have.
pub(super) fn unknown_method(
    state: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match pycompat::unknown_method_callback(state, value, method, arguments) {
        Err(e) if e.kind() == ErrorKind::UnknownMethod => match value.as_str() {
            Some(text) => string(text, method, arguments),
            None => Err(e),
        },
        result => result,
    }
}

fn string(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    if method == "rsplit" {
        return rsplit(text, arguments);
    }
    if !matches!(
        method,
        "removeprefix" | "removesuffix" | "partition" | "rpartition"
    ) {
        return Err(Error::from(ErrorKind::UnknownMethod));
    }
    let (argument,): (String,) = from_args(arguments)?;
    let parts = match method {
        "removeprefix" => return Ok(text.strip_prefix(&argument).unwrap_or(text).into()),
        "removesuffix" => return Ok(text.strip_suffix(&argument).unwrap_or(text).into()),
        _ if argument.is_empty() => return Err(empty_separator()),
        "partition" => match text.split_once(&argument) {
            Some((before, after)) => [before, &argument, after],
            None => [text, "", ""],
        },
        _ => match text.rsplit_once(&argument) {
            Some((before, after)) => [before, &argument, after],
            None => ["", "", text],
        },
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn empty_separator() -> Error {
    Error::new(ErrorKind::InvalidOperation, "empty separator")
}

/// `rsplit(separator, most)`; without a separator, at white space.
fn rsplit(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<String>, Option<i64>) = from_args(arguments)?;
    // Without a limit, Python says -1.
    let most = most.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let mut parts = Vec::new();
    let mut rest = text;
    if let Some(separator) = separator {
        if separator.is_empty() {
            return Err(empty_separator());
        }
        while parts.len() < most {
            let Some((before, after)) = rest.rsplit_once(&separator) else {
                break;
            };
            parts.push(after);
            rest = before;
        }
        parts.push(rest);
    } else {
        rest = rest.trim_end();
        while !rest.is_empty() {
            if parts.len() == most {
                parts.push(rest);
                break;
            }
            let at = rest.rfind(char::is_whitespace);
            let word = at.map_or(0, |at| {
                at + rest[at..].chars().next().map_or(0, char::len_utf8)
            });
            parts.push(&rest[word..]);
            rest = rest[..word].trim_end();
        }
    }
    parts.reverse();
    Ok(parts.into_iter().map(Value::from).collect())
}
