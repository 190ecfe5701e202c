//! A template as a tree.
//!
//! Chains are flat: `a + b + c`, `x | f | g`, `a.b.c`, `elif` after `elif`. So
//! only what the source nests is nested here, and that has a limit.

use crate::text::Text;
use std::sync::Arc;

/// An expression.
#[derive(Debug)]
pub(crate) enum Expr {
    Const(Const),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// The first that holds wins: `a and b and c`, `a or b or c`.
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    /// From left to right.
    Chain(Box<Expr>, Vec<(Binary, Expr)>),
    /// `a < b < c`, each beside the next.
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// `a ~ b ~ c`.
    Concat(Vec<Expr>),
    Negate(Box<Expr>),
    Plus(Box<Expr>),
    /// What is done to a value, one after another.
    Postfix(Box<Expr>, Vec<Suffix>),
    /// `value if condition`, one after another, and what is else.
    Choice(Vec<(Expr, Expr)>, Option<Box<Expr>>),
}

#[derive(Debug)]
pub(crate) enum Const {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Text),
}

#[derive(Debug)]
pub(crate) enum Suffix {
    Attribute(Text),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Arguments),
    Filter(String, Arguments),
    Test {
        name: String,
        arguments: Arguments,
        negated: bool,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(String, Expr)>,
    /// `*list` and `**dictionary`.
    pub list: Option<Box<Expr>>,
    pub dictionary: Option<Box<Expr>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

/// A statement, and the line where it stands.
#[derive(Debug)]
pub(crate) struct Statement {
    pub line: u32,
    pub kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Data(Text),
    Print(Expr),
    /// Conditions in their order, and what is else.
    If(Vec<(Expr, Block)>, Block),
    /// Which of the template's loops.
    For(usize),
    Set(Target, Expr),
    /// What the block writes, after filters.
    SetBlock(Target, Vec<Suffix>, Block),
    With(Vec<(Target, Expr)>, Block),
    Filter(Vec<Suffix>, Block),
    /// Which of the template's macros.
    Macro(usize),
    /// A call, and the macro that is its `caller`.
    Call(Expr, usize),
    Do(Expr),
    /// A block whose only effect is its scope.
    Scope(Block),
    Break,
    Continue,
}

pub(crate) type Block = Vec<Statement>;

/// What is assigned to.
#[derive(Debug)]
pub(crate) enum Target {
    Name(Arc<str>),
    /// `namespace.attribute`.
    Attribute(Arc<str>, Text),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(crate) struct For {
    pub target: Target,
    pub over: Expr,
    pub filter: Option<Expr>,
    pub body: Block,
    pub otherwise: Block,
    pub recursive: bool,
}

#[derive(Debug)]
pub(crate) struct Macro {
    pub name: Arc<str>,
    pub parameters: Vec<(Arc<str>, Option<Expr>)>,
    pub body: Block,
    /// Whether it looks at `varargs` and `kwargs`, and so takes any.
    pub takes: Takes,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Takes {
    pub positional: bool,
    pub named: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub body: Block,
    pub loops: Vec<For>,
    pub macros: Vec<Macro>,
}
