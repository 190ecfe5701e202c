//! Regular expressions in schemas, and formats.

use super::refs::Place;
use super::{json, Kept, Map, Value};
use regex_syntax::hir::{Hir, HirKind};

/// Formats that the compiler has a grammar for. Others are annotations, as the
/// standard has it.
const FORMATS: [&str; 11] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
    "unknown",
];

/// States that an expression may take when its repetitions are written out.
const MAX_STATES: usize = 20_000;

pub(super) fn is_known_format(name: &str) -> bool {
    FORMATS.contains(&name)
}

/// What is wrong with a regular expression, and at which character.
pub(crate) fn check(regex: &str) -> Result<(), String> {
    let at = |offset: usize| regex.get(..offset).map_or(0, |b| b.chars().count()) + 1;
    let hir = match regex_syntax::Parser::new().parse(regex) {
        Ok(hir) => hir,
        Err(regex_syntax::Error::Parse(e)) => {
            let at = at(e.span().start.offset);
            return Err(format!(
                "{} at character {at} of {}",
                e.kind(),
                short(regex)
            ));
        }
        Err(regex_syntax::Error::Translate(e)) => {
            let at = at(e.span().start.offset);
            return Err(format!(
                "{} at character {at} of {}",
                e.kind(),
                short(regex)
            ));
        }
        Err(e) => return Err(e.to_string().lines().last().unwrap_or_default().into()),
    };
    match states(&hir) {
        n if n <= MAX_STATES => Ok(()),
        n => Err(format!(
            "{} takes {n} states with its repetitions written out, but {MAX_STATES} are the most",
            short(regex)
        )),
    }
}

fn short(regex: &str) -> String {
    const MOST: usize = 60;
    match regex.chars().count() > MOST {
        true => format!("{:?}...", regex.chars().take(MOST).collect::<String>()),
        false => format!("{regex:?}"),
    }
}

/// The size of an expression whose repetitions are written out.
fn states(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(l) => l.0.len(),
        HirKind::Class(_) => 1,
        HirKind::Repetition(r) => {
            let times = r.max.unwrap_or(r.min.max(1)) as usize;
            states(&r.sub).max(1).saturating_mul(times)
        }
        HirKind::Capture(c) => states(&c.sub),
        HirKind::Concat(all) | HirKind::Alternation(all) => {
            all.iter().map(states).fold(0, usize::saturating_add)
        }
    }
}

/// Keeps a pattern; what has to hold besides.
///
/// Looking ahead from the beginning is another pattern that has to match: so
/// people ask for a digit somewhere. Beside a format that is known, what else
/// looks around is left to that format.
pub(super) fn keep(
    place: &Place,
    map: &Map<String, Value>,
    out: &mut Map<String, Value>,
) -> Kept<Vec<Value>> {
    let mut rest = place.text()?.to_owned();
    let mut all = Vec::new();
    while let Some((ahead, after)) = leading(&rest, "^(?=") {
        all.push(json!({ "pattern": format!("^(?:{ahead})") }));
        rest = format!("^{after}");
    }
    let format = map.get("format").and_then(Value::as_str);
    if format.is_some_and(is_known_format) {
        while let Some((_, after)) = leading(&rest, "^(?!") {
            rest = format!("^{after}");
        }
        if looks_around(&rest) {
            return Ok(all);
        }
    }
    for regex in all
        .iter()
        .filter_map(|p| p["pattern"].as_str())
        .chain([&*rest])
    {
        check(regex).map_err(|e| place.fault(e))?;
    }
    out.insert("pattern".into(), rest.into());
    Ok(all)
}

fn looks_around(regex: &str) -> bool {
    ["(?=", "(?!", "(?<=", "(?<!"]
        .iter()
        .any(|m| regex.contains(m))
}

/// What stands in the group that the expression begins with, and behind it.
fn leading<'r>(regex: &'r str, with: &str) -> Option<(&'r str, &'r str)> {
    let inner = regex.strip_prefix(with)?;
    let (mut depth, mut class, mut escaped) = (1, false, false);
    for (i, b) in inner.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'[' => class = true,
            b']' => class = false,
            b'(' if !class => depth += 1,
            b')' if !class => depth -= 1,
            // Another beginning, which the group does not belong to.
            b'|' if !class && depth == 0 => return None,
            _ => {}
        }
        if depth == 0 {
            let (ahead, after) = (&inner[..i], &inner[i + 1..]);
            return (!top_level_or(after)).then_some((ahead, after));
        }
    }
    None
}

/// Whether an expression is a choice.
fn top_level_or(regex: &str) -> bool {
    let (mut depth, mut class, mut escaped) = (0i32, false, false);
    regex.bytes().any(|b| {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'[' => class = true,
            b']' => class = false,
            b'(' if !class => depth += 1,
            b')' if !class => depth -= 1,
            b'|' => return !class && depth == 0,
            _ => {}
        }
        false
    })
}

/// An expression of all texts but these; none if they are too many.
pub(super) fn others(texts: &[&str]) -> Option<String> {
    const MOST: usize = 1_000;
    let mut texts: Vec<Vec<char>> = texts.iter().map(|t| t.chars().collect()).collect();
    texts.sort_unstable();
    texts.dedup();
    if texts.iter().map(Vec::len).sum::<usize>() > MOST || texts.iter().any(|t| t.len() > 100) {
        return None;
    }
    Some(format!("^{}$", beyond(&texts, 0)))
}

/// What may follow the first `at` characters, which these texts share.
fn beyond(texts: &[Vec<char>], at: usize) -> String {
    let ends = texts.iter().any(|t| t.len() == at);
    let mut forms = Vec::new();
    let mut next: Vec<char> = texts.iter().filter_map(|t| t.get(at)).copied().collect();
    next.dedup();
    let code = |c: &char| format!("\\x{{{:X}}}", *c as u32);
    forms.push(match next.is_empty() {
        true => "[\\s\\S]+".to_owned(),
        false => format!("[^{}][\\s\\S]*", next.iter().map(code).collect::<String>()),
    });
    for c in &next {
        let first = texts.partition_point(|t| t.get(at) < Some(c));
        let last = texts.partition_point(|t| t.get(at) <= Some(c));
        forms.push(code(c) + &beyond(&texts[first..last], at + 1));
    }
    let maybe = if ends { "" } else { "?" };
    format!("(?:{}){maybe}", forms.join("|"))
}

/// An expression of names that a schema of strings allows; none if it allows
/// all.
pub(super) fn of_names<'a>(place: &Place<'a>, of: &'a Map<String, Value>) -> Kept<Option<String>> {
    let mut regex = None;
    let (mut least, mut most) = (0, None);
    for (key, value) in of {
        let at = || place.child(key, value);
        match key.as_str() {
            "type" if value == "string" => {}
            "pattern" => {
                check(at().text()?).map_err(|e| at().fault(e))?;
                regex = Some(at().text()?.to_owned());
            }
            "format" if of.contains_key("pattern") => {}
            "format" => regex = regex.or(format_of_names(at().text()?)),
            "minLength" => least = super::values::count(&at())?,
            "maxLength" => most = Some(super::values::count(&at())?),
            "type" | "const" | "enum" | "anyOf" | "oneOf" | "allOf" | "not" | "if" | "$ref" => {
                return Err(at().lost())
            }
            _ => {}
        }
    }
    let bounded = least > 0 || most.is_some();
    match regex {
        Some(_) if bounded => Err(place.lost()),
        None if bounded => {
            let most = most.map_or(String::new(), |n| n.to_string());
            Ok(Some(format!("^[\\s\\S]{{{least},{most}}}$")))
        }
        regex => Ok(regex),
    }
}

/// Names of a format, for those that are names of something.
fn format_of_names(format: &str) -> Option<String> {
    let regex = match format {
        "uuid" => "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        "date" => "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$",
        "time" => "^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$",
        "date-time" => {
            "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$"
        }
        "ipv4" => "^((25[0-5]|(2[0-4]|1[0-9]|[1-9])?[0-9])\\.){3}(25[0-5]|(2[0-4]|1[0-9]|[1-9])?[0-9])$",
        "email" => "^[a-z0-9]([a-z0-9.+-]*[a-z0-9])?@([a-z0-9]+\\.)+[a-z]{2,}$",
        _ => return None,
    };
    Some(regex.into())
}
