//! `'%s' % x` and `'{}'.format(x)`.

use crate::error::{fail, mistake, Fault};
use crate::meter::Meter;
use crate::text::{Builder, Text};
use crate::value::Value;
use crate::write;

/// How a value is to be written.
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    comma: bool,
    kind: Option<char>,
}

/// Wider fields than this are nonsense.
const MAX_WIDTH: usize = 100_000;
/// More digits than this are, too.
const MAX_DIGITS: usize = 400;

/// `pattern % arguments`.
pub(crate) fn percent(pattern: &Text, arguments: &Value, meter: &Meter) -> Result<Value, Fault> {
    let text = pattern.as_str();
    meter.make(text.len())?;
    let list: &[Value] = match arguments {
        Value::Tuple(list) => &list.items,
        other => std::slice::from_ref(other),
    };
    let mut list = list.iter();
    let mut out = Builder::default();
    let mut at = 0;
    while let Some(found) = text[at..].find('%') {
        out.push(pattern, at..at + found);
        at += found + 1;
        let mut value = None;
        if text[at..].starts_with('(') {
            let close = text[at..].find(')');
            let close = close.ok_or_else(|| mistake("a key of a format has no end"))?;
            let key = &text[at + 1..at + close];
            value = match arguments {
                Value::Dict(dict) => dict.get(key),
                _ => return fail("a format with keys needs a dictionary"),
            };
            if value.is_none() {
                return fail(format!(
                    "a format's key {:?} is not there",
                    crate::error::shown(key)
                ));
            }
            at += close + 1;
        }
        let mut spec = Spec::default();
        let bytes = text.as_bytes();
        while let Some(flag @ (b'-' | b'+' | b' ' | b'0' | b'#')) = bytes.get(at) {
            match flag {
                b'-' => spec.align = Some('<'),
                b'0' => spec.zero = true,
                b'#' => spec.alternate = true,
                sign => spec.sign = Some(*sign as char),
            }
            at += 1;
        }
        spec.width = number(text, &mut at)?.unwrap_or(0);
        if bytes.get(at) == Some(&b'.') {
            at += 1;
            spec.precision = Some(number(text, &mut at)?.unwrap_or(0));
        }
        let Some(kind) = text[at..].chars().next() else {
            return fail("a format ends before it says of what kind it is");
        };
        at += kind.len_utf8();
        if kind == '%' {
            out.push_str("%", false);
            continue;
        }
        let value = match value.or_else(|| list.next()) {
            Some(value) => value,
            None => return fail("a format has fewer arguments than places"),
        };
        if matches!(kind, 's' | 'r') || spec.align.is_none() {
            spec.align.get_or_insert('>');
        }
        spec.kind = Some(match kind {
            'i' | 'u' => 'd',
            other => other,
        });
        one(value, &spec, &mut out, meter)?;
    }
    out.push(pattern, at..text.len());
    if !matches!(arguments, Value::Dict(_)) && list.next().is_some() {
        return fail("a format has more arguments than places");
    }
    Ok(Value::Text(out.finish()))
}

fn number(text: &str, at: &mut usize) -> Result<Option<usize>, Fault> {
    let digits = text[*at..].bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Ok(None);
    }
    let n = text[*at..*at + digits].parse().ok();
    *at += digits;
    match n.filter(|&n| n <= MAX_WIDTH) {
        Some(n) => Ok(Some(n)),
        None => fail(format!(
            "a format asks for more than {MAX_WIDTH} characters"
        )),
    }
}

/// `pattern.format(...)`.
pub(crate) fn braces(
    pattern: &Text,
    positional: &[Value],
    named: &[(String, Value)],
    meter: &Meter,
) -> Result<Value, Fault> {
    let text = pattern.as_str();
    meter.make(text.len())?;
    let mut out = Builder::default();
    let (mut at, mut next) = (0, 0);
    while let Some(found) = text[at..].find(['{', '}']) {
        let brace = &text[at + found..=at + found];
        out.push(pattern, at..at + found);
        at += found + 1;
        if text[at..].starts_with(brace) {
            out.push(pattern, at..at + 1);
            at += 1;
            continue;
        }
        if brace == "}" {
            return fail("a format has a \"}\" that closes nothing");
        }
        let Some(end) = text[at..].find('}') else {
            return fail("a format has a \"{\" that is not closed");
        };
        let field = &text[at..at + end];
        at += end + 1;
        let (field, spec) = field.split_once(':').unwrap_or((field, ""));
        let (field, conversion) = field.split_once('!').unwrap_or((field, ""));
        let (name, path) = field.split_at(field.find('[').unwrap_or(field.len()));
        let index = match name.parse::<usize>() {
            Ok(index) => Some(index),
            Err(_) if name.is_empty() => {
                next += 1;
                Some(next - 1)
            }
            Err(_) => None,
        };
        let mut value = match index {
            Some(index) => positional.get(index),
            None => named.iter().find(|(n, _)| n == name).map(|(_, v)| v),
        }
        .cloned();
        for key in path.split_terminator(']') {
            let key = key.strip_prefix('[').unwrap_or(key);
            let key = key.parse().map_or_else(|_| Value::text(key), Value::Int);
            value = match value {
                Some(value) => crate::ops::item(&value, &key, meter)?,
                None => None,
            };
        }
        let Some(value) = value else {
            return fail(format!(
                "a format's field {:?} is not there",
                crate::error::shown(field)
            ));
        };
        let mut spec = parse(spec)?;
        match conversion {
            "" => {}
            "s" => spec.kind = Some('s'),
            "r" => spec.kind = Some('r'),
            other => {
                return fail(format!(
                    "a format has no conversion {:?}",
                    crate::error::shown(other)
                ))
            }
        }
        one(&value, &spec, &mut out, meter)?;
    }
    out.push(pattern, at..text.len());
    Ok(Value::Text(out.finish()))
}

fn parse(spec: &str) -> Result<Spec, Fault> {
    let mut parsed = Spec::default();
    let mut chars = spec.chars();
    let (first, second) = (chars.next(), chars.next());
    let aligns = |c: &char| matches!(c, '<' | '>' | '^' | '=');
    let mut at = 0;
    if let (Some(fill), Some(align)) = (first, second.filter(aligns)) {
        (parsed.fill, parsed.align) = (Some(fill), Some(align));
        at = fill.len_utf8() + 1;
    } else if let Some(align) = first.filter(aligns) {
        parsed.align = Some(align);
        at = 1;
    }
    let bytes = spec.as_bytes();
    if let Some(sign @ (b'+' | b'-' | b' ')) = bytes.get(at) {
        parsed.sign = Some(*sign as char);
        at += 1;
    }
    if bytes.get(at) == Some(&b'#') {
        parsed.alternate = true;
        at += 1;
    }
    if bytes.get(at) == Some(&b'0') {
        parsed.zero = true;
        at += 1;
    }
    parsed.width = number(spec, &mut at)?.unwrap_or(0);
    if bytes.get(at) == Some(&b',') {
        parsed.comma = true;
        at += 1;
    }
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        parsed.precision = Some(number(spec, &mut at)?.unwrap_or(0));
    }
    let mut rest = spec[at..].chars();
    parsed.kind = rest.next();
    match rest.next() {
        None => Ok(parsed),
        Some(_) => fail(format!("{:?} is no format", crate::error::shown(spec))),
    }
}

/// Writes one value.
fn one(value: &Value, spec: &Spec, out: &mut Builder, meter: &Meter) -> Result<(), Fault> {
    let kind = spec.kind.unwrap_or(match value {
        Value::Int(_) => 'd',
        Value::Float(_) => 'n',
        _ => 's',
    });
    let body = match kind {
        's' => cut(write::text_of(value, meter)?, spec, meter)?,
        'r' => {
            let list = crate::value::List::new(vec![value.clone()])?;
            let listed = write::text_of(&Value::List(list), meter)?;
            cut(listed.slice(1..listed.len() - 1), spec, meter)?
        }
        _ => Text::template(&numeric(value, kind, spec)?),
    };
    let width = body.chars();
    let pad = spec.width.saturating_sub(width);
    let textual = matches!(kind, 's' | 'r');
    let fill = spec.fill.unwrap_or(
        match spec.zero && !textual && spec.align.is_none_or(|a| a != '<') {
            true => '0',
            false => ' ',
        },
    );
    let align = match spec.align {
        _ if fill == '0' && spec.fill.is_none() => '=',
        Some(align) => align,
        None if textual => '<',
        None => '>',
    };
    let (before, after) = match align {
        '<' => (0, pad),
        '^' => (pad / 2, pad - pad / 2),
        _ => (pad, 0),
    };
    meter.make_times(fill.len_utf8(), pad)?;
    meter.make(body.len())?;
    let filling = |n| fill.to_string().repeat(n);
    if align == '=' && body.as_str().starts_with(['+', '-']) {
        out.push(&body, 0..1);
        out.push_str(&filling(before), false);
        out.push(&body, 1..body.len());
    } else {
        out.push_str(&filling(before), false);
        out.push_all(&body);
    }
    out.push_str(&filling(after), false);
    Ok(())
}

/// No longer than the precision says.
fn cut(text: Text, spec: &Spec, meter: &Meter) -> Result<Text, Fault> {
    meter.make(text.len())?;
    Ok(match spec.precision {
        Some(most) => {
            let end = text.as_str().char_indices().nth(most);
            text.slice(0..end.map_or(text.len(), |(at, _)| at))
        }
        None => text,
    })
}

fn numeric(value: &Value, kind: char, spec: &Spec) -> Result<String, Fault> {
    let wrong = || {
        mistake(format!(
            "a format of kind {kind:?} is not for a {}",
            value.type_name()
        ))
    };
    let digits = spec.precision.unwrap_or(6);
    if digits > MAX_DIGITS {
        return fail(format!("a format asks for more than {MAX_DIGITS} digits"));
    }
    let kind = match (kind, value) {
        ('n', Value::Int(_) | Value::Bool(_)) => 'd',
        (kind, _) => kind,
    };
    let (negative, mut text) = match kind {
        'd' | 'x' | 'X' | 'o' | 'b' | 'c' => {
            let n = match value {
                Value::Float(n) if kind == 'd' && n.abs() < 9e18 => *n as i64,
                other => other.as_int().ok_or_else(wrong)?,
            };
            let size = n.unsigned_abs();
            let (prefix, text) = match kind {
                'x' => ("0x", format!("{size:x}")),
                'X' => ("0X", format!("{size:X}")),
                'o' => ("0o", format!("{size:o}")),
                'b' => ("0b", format!("{size:b}")),
                'c' => {
                    let c = u32::try_from(n).ok().and_then(char::from_u32);
                    ("", c.ok_or_else(wrong)?.to_string())
                }
                _ => ("", size.to_string()),
            };
            (
                n < 0,
                if spec.alternate {
                    prefix.to_owned() + &text
                } else {
                    text
                },
            )
        }
        'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'n' | '%' => {
            let n = value.as_float().ok_or_else(wrong)?;
            let size = n.abs();
            let text = match kind {
                _ if !n.is_finite() => if n.is_nan() { "nan" } else { "inf" }.to_owned(),
                'f' | 'F' => format!("{size:.digits$}"),
                '%' => format!("{:.digits$}%", size * 100.0),
                'e' | 'E' => exponent(size, digits),
                'n' if spec.precision.is_none() => crate::value::python_float(size),
                _ => general(size, digits.max(1)),
            };
            let upper = matches!(kind, 'E' | 'G' | 'F');
            (n < 0.0, if upper { text.to_uppercase() } else { text })
        }
        _ => return fail(format!("a format has no kind {kind:?}")),
    };
    if spec.comma {
        let whole = text.bytes().take_while(u8::is_ascii_digit).count();
        for at in (1..whole).rev().filter(|at| (whole - at) % 3 == 0) {
            text.insert(at, ',');
        }
    }
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (_, Some('+')) => "+",
        (_, Some(' ')) => " ",
        _ => "",
    };
    Ok(sign.to_owned() + &text)
}

fn exponent(size: f64, digits: usize) -> String {
    let text = format!("{size:.digits$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// `%g`: so many digits, without zeros at the end.
fn general(size: f64, digits: usize) -> String {
    let scientific = exponent(size, digits - 1);
    let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let strip = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if power < -4 || power >= digits as i32 {
        return format!("{}e{}", strip(mantissa), &scientific[mantissa.len() + 1..]);
    }
    let places = (digits as i32 - 1 - power).max(0) as usize;
    strip(&format!("{size:.places$}"))
}
