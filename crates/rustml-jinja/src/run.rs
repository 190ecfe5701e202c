//! Statements at work.

use crate::args::Args;
use crate::ast::{Expr, Kind, Statement, Suffix, Target, Tree};
use crate::error::{fail, shown, Fault};
use crate::meter::Meter;
use crate::ops;
use crate::text::{Builder, Text};
use crate::value::{List, Loop, Macro, Value};
use crate::write;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// One rendering.
pub(crate) struct Run<'t> {
    pub tree: &'t Tree,
    pub meter: &'t Meter,
    /// The outermost first.
    pub scopes: Vec<HashMap<Arc<str>, Value>>,
    pub namespaces: Vec<HashMap<String, Value>>,
    /// What is written; the innermost block that collects is last.
    out: Vec<Builder>,
}

/// How a block was left.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    End,
    Break,
    Continue,
}

impl<'t> Run<'t> {
    pub fn new(tree: &'t Tree, meter: &'t Meter, variables: HashMap<Arc<str>, Value>) -> Run<'t> {
        Run {
            tree,
            meter,
            scopes: vec![variables],
            namespaces: Vec::new(),
            out: vec![Builder::default()],
        }
    }

    /// Renders all of it.
    pub fn all(mut self) -> Result<Builder, Fault> {
        self.block(&self.tree.body)?;
        Ok(self.out.swap_remove(0))
    }

    fn block(&mut self, block: &'t [Statement]) -> Result<Flow, Fault> {
        self.meter.enter()?;
        for statement in block {
            self.meter.work(1)?;
            let flow = self.statement(&statement.kind);
            match flow.map_err(|fault| fault.at_line(statement.line))? {
                Flow::End => {}
                flow => {
                    self.meter.leave();
                    return Ok(flow);
                }
            }
        }
        self.meter.leave();
        Ok(Flow::End)
    }

    fn statement(&mut self, kind: &'t Kind) -> Result<Flow, Fault> {
        match kind {
            Kind::Data(text) => self.write(&Value::Text(text.clone()))?,
            Kind::Print(expr) => {
                let value = self.eval(expr)?;
                self.write(&value)?;
            }
            Kind::If(branches, otherwise) => {
                for (condition, block) in branches {
                    if self.eval(condition)?.is_true() {
                        return self.block(block);
                    }
                }
                return self.block(otherwise);
            }
            Kind::Scope(block) => return self.scoped(block),
            Kind::For(index) => {
                let items = self
                    .eval(&self.tree.loops[*index].over)?
                    .items(self.meter)?;
                self.for_loop(*index, items, 0)?;
            }
            Kind::Set(target, expr) => {
                let value = self.eval(expr)?;
                self.assign(target, value)?;
            }
            Kind::SetBlock(target, filters, block) => {
                let text = self.collect(|run| run.scoped(block).map(drop))?;
                let value = self.suffixes(Value::Text(text), filters)?;
                self.assign(target, value)?;
            }
            Kind::With(values, block) => {
                let values = values
                    .iter()
                    .map(|(target, expr)| Ok((target, self.eval(expr)?)))
                    .collect::<Result<Vec<_>, Fault>>()?;
                self.scopes.push(HashMap::new());
                for (target, value) in values {
                    self.assign(target, value)?;
                }
                let flow = self.block(block)?;
                self.scopes.pop();
                return Ok(flow);
            }
            Kind::Filter(filters, block) => {
                let text = self.collect(|run| run.scoped(block).map(drop))?;
                let value = self.suffixes(Value::Text(text), filters)?;
                self.write(&value)?;
            }
            Kind::Macro(index) => {
                let value = self.define(*index)?;
                let name = self.tree.macros[*index].name.clone();
                self.set(name, value);
            }
            Kind::Call(call, caller) => {
                let value = self.call_block(call, *caller)?;
                self.write(&value)?;
            }
            Kind::Do(expr) => drop(self.eval(expr)?),
            Kind::Break => return Ok(Flow::Break),
            Kind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::End)
    }

    fn write(&mut self, value: &Value) -> Result<(), Fault> {
        match self.out.last_mut() {
            Some(out) => write::display(value, out, self.meter),
            None => Ok(()),
        }
    }

    /// What is written meanwhile.
    fn collect(
        &mut self,
        run: impl FnOnce(&mut Run<'t>) -> Result<(), Fault>,
    ) -> Result<Text, Fault> {
        self.out.push(Builder::default());
        run(self)?;
        Ok(self.out.pop().unwrap_or_default().finish())
    }

    /// A block with variables of its own.
    fn scoped(&mut self, block: &'t [Statement]) -> Result<Flow, Fault> {
        self.scopes.push(HashMap::new());
        let flow = self.block(block)?;
        self.scopes.pop();
        Ok(flow)
    }

    fn set(&mut self, name: Arc<str>, value: Value) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, value);
        }
    }

    fn assign(&mut self, target: &'t Target, value: Value) -> Result<(), Fault> {
        match target {
            Target::Name(name) => self.set(name.clone(), value),
            Target::Attribute(name, attribute) => match self.lookup(name) {
                Value::Namespace(index) => {
                    let name = attribute.as_str().to_owned();
                    self.namespaces[index].insert(name, value);
                }
                _ => {
                    return fail(format!(
                        "{name} is no namespace, so nothing in it can be set"
                    ))
                }
            },
            Target::Tuple(targets) => {
                let items = value.items(self.meter)?;
                if items.items.len() != targets.len() {
                    return fail(format!(
                        "{} values cannot be given to {} names",
                        items.items.len(),
                        targets.len()
                    ));
                }
                for (target, item) in targets.iter().zip(&items.items) {
                    self.assign(target, item.clone())?;
                }
            }
        }
        Ok(())
    }

    fn for_loop(&mut self, index: usize, items: Rc<List>, level: usize) -> Result<(), Fault> {
        let what = &self.tree.loops[index];
        let items = match &what.filter {
            None => items,
            Some(filter) => {
                let mut kept = Vec::new();
                self.meter.make_values(items.items.len())?;
                for item in &items.items {
                    self.scopes.push(HashMap::new());
                    self.assign(&what.target, item.clone())?;
                    if self.eval(filter)?.is_true() {
                        kept.push(item.clone());
                    }
                    self.scopes.pop();
                }
                List::new(kept)?
            }
        };
        if items.items.is_empty() {
            return self.scoped(&what.otherwise).map(drop);
        }
        let state = Rc::new(Loop {
            items,
            at: Cell::new(0),
            level,
            recursive: what.recursive.then_some(index),
            last: RefCell::new(None),
            ended: Cell::new(false),
        });
        let result = self.iterate(what, &state);
        // What was last asked about may hold the loop itself.
        state.ended.set(true);
        state.last.replace(None);
        result
    }

    fn iterate(&mut self, what: &'t crate::ast::For, state: &Rc<Loop>) -> Result<(), Fault> {
        for (at, item) in state.items.items.iter().enumerate() {
            self.meter.work(1)?;
            state.at.set(at);
            self.scopes.push(HashMap::new());
            self.set("loop".into(), Value::Loop(state.clone()));
            self.assign(&what.target, item.clone())?;
            let flow = self.block(&what.body)?;
            self.scopes.pop();
            if flow == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    /// A loop that calls itself, with other items.
    pub fn loop_again(&mut self, state: &Loop, args: Args) -> Result<Value, Fault> {
        let Some(index) = state.recursive else {
            return fail("a loop that calls itself has to be recursive");
        };
        let args = args.bind("loop", ["items"])?;
        let items = args.need(0)?.items(self.meter)?;
        let level = state.level + 1;
        let text = self.collect(|run| run.for_loop(index, items, level))?;
        Ok(Value::Text(text))
    }

    /// A macro with what is around it.
    fn define(&mut self, index: usize) -> Result<Value, Fault> {
        let around = self.scopes[1..].iter().flatten();
        let around: Vec<_> = around
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        self.meter.make_values(2 * around.len() + 1)?;
        Macro::new(index, around).map(Value::Macro)
    }

    fn call_block(&mut self, call: &'t Expr, caller: usize) -> Result<Value, Fault> {
        let Expr::Postfix(base, suffixes) = call else {
            return fail("a call block needs a call");
        };
        let Some((Suffix::Call(arguments), before)) = suffixes.split_last() else {
            return fail("a call block needs a call");
        };
        let value = self.eval(base)?;
        let value = self.suffixes(value, before)?;
        let mut args = self.arguments(arguments)?;
        args.named.push(("caller".into(), self.define(caller)?));
        self.call(&value, args)
    }

    pub fn call_macro(&mut self, called: &Macro, mut args: Args) -> Result<Value, Fault> {
        let what = &self.tree.macros[called.index];
        self.meter.enter()?;
        let inner = self.scopes.split_off(1);
        let mut around = HashMap::new();
        self.meter.work(called.around.len() as u64)?;
        around.extend(called.around.iter().cloned());
        self.scopes.push(around);
        self.scopes.push(HashMap::new());
        if args.positional.len() > what.parameters.len() && !what.takes.positional {
            return fail(format!(
                "the macro {} takes {} arguments at most",
                shown(&what.name),
                what.parameters.len()
            ));
        }
        let mut positional = std::mem::take(&mut args.positional).into_iter();
        for (name, default) in &what.parameters {
            self.meter.work(args.named.len() as u64 / 8)?;
            let named = args.named.iter().position(|(n, _)| **n == **name);
            let value = match (positional.next(), named, default) {
                (Some(value), None, _) => value,
                (Some(_), Some(_), _) => {
                    return fail(format!(
                        "the macro's argument {} was given twice",
                        shown(name)
                    ))
                }
                (None, Some(at), _) => args.named.remove(at).1,
                (None, None, Some(default)) => self.eval(default)?,
                (None, None, None) => Value::undefined(shown(name)),
            };
            self.set(name.clone(), value);
        }
        if what.takes.positional {
            let more = List::new(positional.collect())?;
            self.set("varargs".into(), Value::Tuple(more));
        }
        let mut more = Args::default();
        for (name, value) in args.named {
            match name.as_str() {
                "caller" => self.set("caller".into(), value),
                _ if what.takes.named => more.named.push((name, value)),
                other => {
                    return fail(format!(
                        "the macro {} has no argument {:?}",
                        shown(&what.name),
                        shown(other)
                    ))
                }
            }
        }
        if what.takes.named {
            let more = crate::lists::dict(more, self.meter)?;
            self.set("kwargs".into(), more);
        }
        let text = self.collect(|run| run.block(&what.body).map(drop))?;
        self.scopes.truncate(1);
        self.scopes.extend(inner);
        self.meter.leave();
        Ok(Value::Text(text))
    }

    /// The value of a name.
    pub fn lookup(&self, name: &str) -> Value {
        let found = self.scopes.iter().rev().find_map(|scope| scope.get(name));
        match found {
            Some(value) => value.clone(),
            None => match crate::eval::FUNCTIONS.iter().find(|f| **f == name) {
                Some(function) => Value::Function(function),
                None => Value::undefined(shown(name)),
            },
        }
    }

    /// Makes a namespace.
    pub fn namespace(&mut self, args: Args) -> Result<Value, Fault> {
        let mut all = HashMap::new();
        for from in &args.positional {
            let pairs = crate::lists::dict(
                Args {
                    positional: vec![from.clone()],
                    named: Vec::new(),
                },
                self.meter,
            )?;
            let Value::Dict(dict) = pairs else {
                continue;
            };
            for (key, value) in &dict.entries {
                let name = write::text_of(&key.value(), self.meter)?;
                self.meter.make(name.len() + 64)?;
                all.insert(name.as_str().to_owned(), value.clone());
            }
        }
        all.extend(args.named);
        self.meter.make(128)?;
        self.namespaces.push(all);
        Ok(Value::Namespace(self.namespaces.len() - 1))
    }

    /// `value[key]`.
    pub fn item(&self, value: &Value, key: &Value) -> Result<Value, Fault> {
        ops::defined(value)?;
        if let Some(found) = ops::item(value, key, self.meter)? {
            return Ok(found);
        }
        match key {
            Value::Text(name) if !matches!(value, Value::Text(_) if name.is_empty()) => {
                self.method_or_nothing(value, name)
            }
            other => {
                let shown = write::text_of(other, self.meter)?;
                Ok(Value::undefined(shown_item(shown.as_str(), value)))
            }
        }
    }

    /// `value.name`.
    pub fn attribute(&self, value: &Value, name: &Text) -> Result<Value, Fault> {
        self.meter.work(1)?;
        ops::defined(value)?;
        if let Value::Dict(dict) = value {
            if !crate::methods::has(value, name.as_str()) {
                let found = dict.get(name.as_str()).cloned();
                return Ok(
                    found.unwrap_or_else(|| Value::undefined(shown_item(name.as_str(), value)))
                );
            }
        }
        self.method_or_nothing(value, name)
    }

    fn method_or_nothing(&self, value: &Value, name: &Text) -> Result<Value, Fault> {
        let at = name.as_str();
        if crate::methods::has(value, at) {
            return crate::value::Method::bind(value.clone(), name.clone());
        }
        let found = match value {
            Value::Namespace(index) => self.namespaces[*index].get(at).cloned(),
            Value::Loop(state) => loop_attribute(state, at),
            _ => None,
        };
        Ok(found.unwrap_or_else(|| Value::undefined(shown_item(at, value))))
    }
}

fn shown_item(name: &str, of: &Value) -> String {
    format!("{:?} of a {}", shown(name), of.type_name())
}

fn loop_attribute(state: &Loop, name: &str) -> Option<Value> {
    let (at, items) = (state.at.get(), &state.items.items);
    let left = items.len() - at - 1;
    let beside = |at: Option<usize>| at.and_then(|at| items.get(at).cloned());
    Some(match name {
        "index" => Value::Int(at as i64 + 1),
        "index0" => Value::Int(at as i64),
        "revindex" => Value::Int(left as i64 + 1),
        "revindex0" => Value::Int(left as i64),
        "first" => Value::Bool(at == 0),
        "last" => Value::Bool(left == 0),
        "length" => Value::Int(items.len() as i64),
        "depth" => Value::Int(state.level as i64 + 1),
        "depth0" => Value::Int(state.level as i64),
        "previtem" => return beside(at.checked_sub(1)),
        "nextitem" => return beside(at.checked_add(1)),
        _ => return None,
    })
}
