//! Expressions at work.

use crate::args::Args;
use crate::ast::{Arguments, Const, Expr, Suffix};
use crate::error::{fail, mistake, shown, Fault, Limit};
use crate::filters;
use crate::lists;
use crate::methods;
use crate::ops;
use crate::run::Run;
use crate::text::Text;
use crate::value::{Cycler, Dict, Joiner, List, Value};
use crate::write;
use indexmap::IndexMap;
use std::cell::Cell;
use std::rc::Rc;

/// What every template can call.
pub(crate) const FUNCTIONS: &[&str] = &[
    "range",
    "dict",
    "namespace",
    "cycler",
    "joiner",
    "raise_exception",
    "strftime_now",
];

/// As many numbers has a range at most, as in Jinja's sandbox.
const MAX_RANGE: i64 = 100_000;

impl<'t> Run<'t> {
    pub fn eval(&mut self, expr: &'t Expr) -> Result<Value, Fault> {
        self.meter.work(1)?;
        match expr {
            Expr::Const(constant) => Ok(match constant {
                Const::None => Value::None,
                Const::Bool(b) => Value::Bool(*b),
                Const::Int(n) => Value::Int(*n),
                Const::Float(n) => Value::Float(*n),
                Const::Text(text) => Value::Text(text.clone()),
            }),
            Expr::Name(name) => Ok(self.lookup(name)),
            _ => {
                self.meter.enter()?;
                let value = self.compound(expr)?;
                self.meter.leave();
                Ok(value)
            }
        }
    }

    fn compound(&mut self, expr: &'t Expr) -> Result<Value, Fault> {
        match expr {
            Expr::Const(_) | Expr::Name(_) => self.eval(expr),
            Expr::List(items) => Ok(Value::List(List::new(self.all_items(items)?)?)),
            Expr::Tuple(items) => Ok(Value::Tuple(List::new(self.all_items(items)?)?)),
            Expr::Dict(pairs) => self.dictionary(pairs),
            Expr::And(parts) => self.until(parts, false),
            Expr::Or(parts) => self.until(parts, true),
            Expr::Not(inner) => Ok(Value::Bool(!self.eval(inner)?.is_true())),
            Expr::Chain(first, rest) => {
                let mut value = self.eval(first)?;
                for (op, right) in rest {
                    let right = self.eval(right)?;
                    value = ops::binary(*op, &value, &right, self.meter)?;
                }
                Ok(value)
            }
            Expr::Compare(first, rest) => {
                let mut left = self.eval(first)?;
                for (comparison, right) in rest {
                    let right = self.eval(right)?;
                    if !ops::compare(*comparison, &left, &right, self.meter)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::Concat(parts) => {
                let values = self.all_items(parts)?;
                ops::concat(&values, self.meter)
            }
            Expr::Negate(inner) => ops::negate(&self.eval(inner)?),
            Expr::Plus(inner) => ops::plus(&self.eval(inner)?),
            Expr::Postfix(base, suffixes) => {
                let value = self.eval(base)?;
                self.suffixes(value, suffixes)
            }
            Expr::Choice(choices, otherwise) => {
                for (value, condition) in choices {
                    if self.eval(condition)?.is_true() {
                        return self.eval(value);
                    }
                }
                match otherwise {
                    Some(value) => self.eval(value),
                    None => Ok(Value::undefined("a value without \"else\"")),
                }
            }
        }
    }

    fn all_items(&mut self, items: &'t [Expr]) -> Result<Vec<Value>, Fault> {
        self.meter.make_values(items.len())?;
        items.iter().map(|item| self.eval(item)).collect()
    }

    fn dictionary(&mut self, pairs: &'t [(Expr, Expr)]) -> Result<Value, Fault> {
        self.meter.make_values(4 * pairs.len())?;
        let mut entries = IndexMap::new();
        for (key, value) in pairs {
            let key = self.eval(key)?.key(self.meter)?;
            entries.insert(key, self.eval(value)?);
        }
        Ok(Value::Dict(Dict::new(entries)?))
    }

    /// The first value that is so, or else the last.
    fn until(&mut self, parts: &'t [Expr], wanted: bool) -> Result<Value, Fault> {
        let mut value = Value::Bool(!wanted);
        for part in parts {
            value = self.eval(part)?;
            if value.is_true() == wanted {
                break;
            }
        }
        Ok(value)
    }

    pub fn suffixes(&mut self, value: Value, suffixes: &'t [Suffix]) -> Result<Value, Fault> {
        let mut value = value;
        let mut rest = suffixes.iter();
        while let Some(suffix) = rest.next() {
            self.meter.work(1)?;
            value = match suffix {
                Suffix::Attribute(name) => match rest.as_slice().first() {
                    Some(Suffix::Call(arguments)) if methods::has(&value, name.as_str()) => {
                        rest.next();
                        let args = self.arguments(arguments)?;
                        methods::call(&value, name.as_str(), args, self.meter)?
                    }
                    _ => self.attribute(&value, name)?,
                },
                Suffix::Item(key) => {
                    let key = self.eval(key)?;
                    self.item(&value, &key)?
                }
                Suffix::Slice(parts) => {
                    let mut part = |at: usize| match &parts[at] {
                        Some(expr) => self.eval(expr),
                        None => Ok(Value::None),
                    };
                    let parts = [part(0)?, part(1)?, part(2)?];
                    ops::slice(&value, parts, self.meter)?
                }
                Suffix::Call(arguments) => {
                    let args = self.arguments(arguments)?;
                    self.call(&value, args)?
                }
                Suffix::Filter(name, arguments) => {
                    let args = self.arguments(arguments)?;
                    if name == "attr" && matches!(value, Value::Namespace(_) | Value::Loop(_)) {
                        let args = args.bind(name, ["name"])?;
                        self.attribute(&value, args.need_text(0)?)?
                    } else {
                        filters::apply(name, &value, args, self.meter)?
                    }
                }
                Suffix::Test {
                    name,
                    arguments,
                    negated,
                } => {
                    let args = self.arguments(arguments)?;
                    Value::Bool(lists::test(name, &value, args, self.meter)? != *negated)
                }
            };
        }
        Ok(value)
    }

    pub fn arguments(&mut self, given: &'t Arguments) -> Result<Args, Fault> {
        let mut args = Args {
            positional: self.all_items(&given.positional)?,
            named: Vec::new(),
        };
        for (name, value) in &given.named {
            self.meter.make(64 + name.len())?;
            args.named.push((name.clone(), self.eval(value)?));
        }
        if let Some(list) = &given.list {
            let items = self.eval(list)?.items(self.meter)?;
            self.meter.make_values(items.items.len())?;
            args.positional.extend(items.items.iter().cloned());
        }
        if let Some(dictionary) = &given.dictionary {
            let value = self.eval(dictionary)?;
            let Value::Dict(dict) = &value else {
                return fail(format!("** needs a dict, not a {}", value.type_name()));
            };
            for (key, value) in &dict.entries {
                let name = write::text_of(&key.value(), self.meter)?;
                self.meter.make(64 + name.len())?;
                args.named.push((name.as_str().to_owned(), value.clone()));
            }
        }
        Ok(args)
    }

    pub fn call(&mut self, value: &Value, args: Args) -> Result<Value, Fault> {
        match value {
            Value::Macro(called) => self.call_macro(called, args),
            Value::Method(method) => {
                methods::call(&method.of, method.name.as_str(), args, self.meter)
            }
            Value::Loop(state) => self.loop_again(state, args),
            Value::Joiner(joiner) => {
                args.none("a joiner")?;
                Ok(match joiner.used.replace(true) {
                    true => Value::Text(joiner.separator.clone()),
                    false => Value::text(""),
                })
            }
            Value::Function(name) => self.function(name, args),
            other => {
                ops::defined(other)?;
                fail(format!("a {} cannot be called", other.type_name()))
            }
        }
    }

    fn function(&mut self, name: &str, args: Args) -> Result<Value, Fault> {
        match name {
            "range" => self.range(args),
            "dict" => lists::dict(args, self.meter),
            "namespace" => self.namespace(args),
            "cycler" => match args.positional.is_empty() {
                true => fail("cycler needs arguments"),
                false => Ok(Value::Cycler(Rc::new(Cycler {
                    items: List::new(args.positional)?,
                    at: Cell::new(0),
                }))),
            },
            "joiner" => {
                let args = args.bind(name, ["sep"])?;
                Ok(Value::Joiner(Rc::new(Joiner {
                    separator: args.as_text(0, ", ", self.meter)?,
                    used: Cell::new(false),
                })))
            }
            "raise_exception" => {
                let args = args.bind(name, ["message"])?;
                let message = args.as_text(0, "", self.meter)?;
                Err(Fault::Raised(shown(message.as_str())))
            }
            "strftime_now" => {
                let args = args.bind(name, ["format"])?;
                let format = args.need_text(0)?;
                if format.len() > 1000 {
                    return Err(Limit::Work.into());
                }
                self.meter.work(100)?;
                let now = jiff::Zoned::now();
                let text = jiff::fmt::strtime::format(format.as_str(), &now);
                let text = text.map_err(|e| mistake(shown(&e.to_string())))?;
                self.meter.make(text.len())?;
                Ok(Value::Text(Text::template(&text)))
            }
            other => fail(format!("there is no function {other:?}")),
        }
    }

    fn range(&mut self, args: Args) -> Result<Value, Fault> {
        let args = args.bind("range", ["start", "stop", "step"])?;
        let (start, stop) = match args.int(1)? {
            Some(stop) => (args.int(0)?.unwrap_or(0), stop),
            None => {
                args.need(0)?;
                (0, args.int(0)?.unwrap_or(0))
            }
        };
        let step = args.int(2)?.unwrap_or(1);
        if step == 0 {
            return fail("the step of a range is 0");
        }
        let distance = match step > 0 {
            true => i128::from(stop) - i128::from(start),
            false => i128::from(start) - i128::from(stop),
        };
        let step_size = i128::from(step.unsigned_abs());
        let count = distance.max(0).div_euclid(step_size)
            + i128::from(distance.max(0).rem_euclid(step_size) != 0);
        if count > i128::from(MAX_RANGE) {
            return fail(format!("a range has more than {MAX_RANGE} numbers"));
        }
        self.meter.make_values(count as usize)?;
        let number = |i| Value::Int(start + i * step);
        let numbers = (0..count as i64).map(number).collect();
        Ok(Value::List(List::new(numbers)?))
    }
}
