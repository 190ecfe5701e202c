//! Jinja as chat templates use it, for templates that nobody vouches for.
//!
//! A chat template is a program that comes with a downloaded model, and what it
//! is given comes from whoever sends a request. So two things hold here that do
//! not elsewhere:
//!
//! - **Everything is paid for before it is done.** Steps, bytes looked at, bytes
//!   made, depth and time have limits ([`Limits`]), in every operator, filter,
//!   method and comparison. No template overflows the stack: what is nested in
//!   the source, in values and in calls is bounded, and runs on a stack of its
//!   own that is large enough for the deepest.
//! - **Text knows where it comes from.** Of every byte of the result one can tell
//!   whether the template wrote it or it came in with a variable
//!   ([`Rendered::input`]), however it was cut, trimmed, replaced, quoted or
//!   joined on the way.
//!
//! The language is that of Python's jinja2 with the settings of `transformers`:
//! blocks are trimmed, loops can be left, lists and dictionaries cannot be
//! changed, `tojson` writes as `json.dumps` does, and `raise_exception` and
//! `strftime_now` do what they say. There are no other files to include.
//!
//! ```
//! use rustml_jinja::{Limits, Origin, Template, Variable};
//! use serde_json::json;
//!
//! let template = Template::new("Hello {{ name | trim | upper }}!")?;
//! let name = json!(" world ");
//! let variables = [Variable { name: "name", value: &name, origin: Origin::Input }];
//! let rendered = template.render(&variables, Limits::default())?;
//! assert_eq!(rendered.as_str(), "Hello WORLD!");
//! assert_eq!(rendered.input(), [6..11]);
//! # Ok::<(), rustml_jinja::Fault>(())
//! ```

mod args;
mod ast;
mod error;
mod eval;
mod filters;
mod format;
mod lex;
mod lists;
mod meter;
mod methods;
mod ops;
mod parse;
mod run;
mod split;
mod statements;
mod text;
mod value;
mod write;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub use error::{Fault, Limit};
pub use meter::Limits;

use meter::Meter;
use text::Builder;
use value::Value;

/// A template longer than this is not one.
const MAX_SOURCE: usize = 1 << 20;
/// Enough for the deepest template, several times over.
const STACK: usize = 32 << 20;

impl Default for Limits {
    /// For a template that is given next to nothing.
    fn default() -> Limits {
        Limits {
            work: 4_000_000,
            memory: 64 << 20,
            time: Duration::from_secs(1),
        }
    }
}

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    tree: ast::Tree,
}

/// What a template can look at under a name.
#[derive(Clone, Copy)]
pub struct Variable<'a> {
    /// The name.
    pub name: &'a str,
    /// The value.
    pub value: &'a serde_json::Value,
    /// Whose words it has.
    pub origin: Origin,
}

/// Whose words a variable has.
#[derive(Clone, Copy)]
pub enum Origin {
    /// As if the template had them.
    Template,
    /// Somebody else's.
    Input,
    /// A list of messages: somebody else's, but for the roles that this says
    /// yes to.
    Messages(fn(&str) -> bool),
}

/// What a template wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    text: String,
    input: Vec<Range<usize>>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// If it is too long, too deeply nested, or no Jinja.
    pub fn new(source: &str) -> Result<Template, Fault> {
        if source.len() > MAX_SOURCE {
            let says = format!("it is {} bytes long, more than {MAX_SOURCE}", source.len());
            return error::fail(says);
        }
        let tree = statements::parse(source)?;
        Ok(Template { tree })
    }

    /// Runs it.
    ///
    /// # Errors
    /// If it says so, is wrong, or asks for more than the limits.
    pub fn render(&self, variables: &[Variable], limits: Limits) -> Result<Rendered, Fault> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("template".into())
                .stack_size(STACK);
            let running = thread.spawn_scoped(scope, || self.run(variables, limits));
            match running.map_err(|_| Fault::from(Limit::Thread))?.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn run(&self, variables: &[Variable], limits: Limits) -> Result<Rendered, Fault> {
        let meter = Meter::new(limits);
        let mut scope = HashMap::new();
        for variable in variables {
            let value = variable.read(&meter)?;
            scope.insert(Arc::from(variable.name), value);
        }
        let Builder { text, input } = run::Run::new(&self.tree, &meter, scope).all()?;
        Ok(Rendered { text, input })
    }
}

impl Variable<'_> {
    fn read(&self, meter: &Meter) -> Result<Value, Fault> {
        match self.origin {
            Origin::Template => Value::from_json(self.value, &|_| true, meter),
            Origin::Input => Value::from_json(self.value, &|_| false, meter),
            Origin::Messages(trusted) => Value::from_messages(self.value, trusted, meter),
        }
    }
}

impl Rendered {
    /// A text that is the template's own.
    pub fn template(text: impl Into<String>) -> Rendered {
        Rendered {
            text: text.into(),
            input: Vec::new(),
        }
    }

    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The bytes that the template did not write: ranges in ascending order,
    /// none beside another.
    pub fn input(&self) -> &[Range<usize>] {
        &self.input
    }

    /// Appends text that counts as the template's.
    pub fn push_template(&mut self, text: &str) {
        self.text.push_str(text);
    }
}
