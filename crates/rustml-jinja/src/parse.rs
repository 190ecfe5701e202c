//! Expressions: tokens to a tree, with the precedences of Jinja.

use crate::ast::{Arguments, Binary, Comparison, Const, Expr, Suffix, Takes, Tree};
use crate::error::{fail, Fault};
use crate::lex::{Spanned, Token};
use crate::text::Text;

/// Brackets, blocks and signs within each other.
const MAX_NESTING: usize = 100;
/// Links of a chain of operators, filters or branches.
const MAX_CHAIN: usize = 1000;

pub(crate) struct Parser {
    pub tokens: std::vec::IntoIter<Spanned>,
    pub tree: Tree,
    pub line: u32,
    pub in_loop: bool,
    /// What the macro that is being parsed takes.
    pub takes: Takes,
    depth: usize,
}

type Parsed<T> = Result<T, Fault>;

impl Parser {
    pub fn new(tokens: Vec<Spanned>) -> Parser {
        Parser {
            tokens: tokens.into_iter(),
            tree: Tree::default(),
            line: 1,
            in_loop: false,
            takes: Takes::default(),
            depth: 0,
        }
    }

    pub fn peek(&self) -> Option<&Token> {
        self.tokens.as_slice().first().map(|(token, _)| token)
    }

    pub fn next(&mut self) -> Option<Token> {
        let (token, line) = self.tokens.next()?;
        self.line = line;
        Some(token)
    }

    pub fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Some(Token::Op(found)) if *found == op)
    }

    pub fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    pub fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        if found {
            self.next();
        }
        found
    }

    pub fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    pub fn expect_op(&mut self, op: &str) -> Parsed<()> {
        match self.skip_op(op) {
            true => Ok(()),
            false => self.unexpected(&format!("{op:?}")),
        }
    }

    pub fn expect(&mut self, token: Token) -> Parsed<()> {
        match self.peek() == Some(&token) {
            true => {
                self.next();
                Ok(())
            }
            false => self.unexpected(&describe(Some(&token))),
        }
    }

    pub fn name(&mut self) -> Parsed<String> {
        match self.peek() {
            Some(Token::Name(_)) => {}
            _ => return self.unexpected("a name"),
        }
        match self.next() {
            Some(Token::Name(name)) => Ok(name),
            _ => self.unexpected("a name"),
        }
    }

    pub fn unexpected<T>(&mut self, wanted: &str) -> Parsed<T> {
        let found = describe(self.peek());
        if let Some((_, line)) = self.tokens.as_slice().first() {
            self.line = *line;
        }
        fail(format!("syntax error ({wanted} was expected, not {found})"))
    }

    /// Parses something one level further in.
    pub fn nested<T>(&mut self, parse: impl FnOnce(&mut Parser) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_NESTING {
            return fail(format!(
                "syntax error (more than {MAX_NESTING} levels are nested)"
            ));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// Whether a chain may have another link.
    pub fn link(&self, links: usize) -> Parsed<()> {
        match links < MAX_CHAIN {
            true => Ok(()),
            false => fail(format!(
                "syntax error (more than {MAX_CHAIN} links in a chain)"
            )),
        }
    }

    /// Any expression, without commas.
    pub fn expression(&mut self) -> Parsed<Expr> {
        self.nested(Parser::choice)
    }

    fn choice(&mut self) -> Parsed<Expr> {
        let mut choices: Vec<(Expr, Expr)> = Vec::new();
        let mut value = self.or()?;
        while self.skip_name("if") {
            self.link(choices.len())?;
            let condition = self.or()?;
            if !self.skip_name("else") {
                choices.push((value, condition));
                return match self.is_name("if") {
                    true => self.unexpected("\"else\""),
                    false => Ok(Expr::Choice(choices, None)),
                };
            }
            choices.push((value, condition));
            value = self.or()?;
        }
        Ok(match choices.is_empty() {
            true => value,
            false => Expr::Choice(choices, Some(Box::new(value))),
        })
    }

    /// What a loop goes over: an `if` behind it is the loop's.
    pub fn loop_source(&mut self) -> Parsed<Expr> {
        let first = self.nested(Parser::or)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip_op(",") {
            items.push(self.nested(Parser::or)?);
        }
        Ok(Expr::Tuple(items))
    }

    fn or(&mut self) -> Parsed<Expr> {
        self.joined("or", Parser::and, Expr::Or)
    }

    fn and(&mut self) -> Parsed<Expr> {
        self.joined("and", Parser::not, Expr::And)
    }

    fn joined(
        &mut self,
        word: &str,
        part: fn(&mut Parser) -> Parsed<Expr>,
        make: fn(Vec<Expr>) -> Expr,
    ) -> Parsed<Expr> {
        let first = part(self)?;
        if !self.is_name(word) {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_name(word) {
            self.link(parts.len())?;
            parts.push(part(self)?);
        }
        Ok(make(parts))
    }

    fn not(&mut self) -> Parsed<Expr> {
        let mut times = 0;
        while self.skip_name("not") {
            self.link(times)?;
            times += 1;
        }
        let inner = self.compare()?;
        // Twice is what makes a value a boolean; four times is no different.
        let times = if times > 2 { 2 - times % 2 } else { times };
        Ok((0..times).fold(inner, |e, _| Expr::Not(Box::new(e))))
    }

    fn compare(&mut self) -> Parsed<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.peek() {
                Some(Token::Op("==")) => Comparison::Equal,
                Some(Token::Op("!=")) => Comparison::NotEqual,
                Some(Token::Op("<")) => Comparison::Less,
                Some(Token::Op("<=")) => Comparison::LessEqual,
                Some(Token::Op(">")) => Comparison::Greater,
                Some(Token::Op(">=")) => Comparison::GreaterEqual,
                Some(Token::Name(name)) if name == "in" => Comparison::In,
                Some(Token::Name(name)) if name == "not" => {
                    match self.tokens.as_slice().get(1) {
                        Some((Token::Name(name), _)) if name == "in" => {}
                        _ => break,
                    }
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            self.link(rest.len())?;
            rest.push((comparison, self.sum()?));
        }
        Ok(match rest.is_empty() {
            true => first,
            false => Expr::Compare(Box::new(first), rest),
        })
    }

    fn chain(
        &mut self,
        part: fn(&mut Parser) -> Parsed<Expr>,
        operators: &[(&str, Binary)],
    ) -> Parsed<Expr> {
        let first = part(self)?;
        let mut rest = Vec::new();
        while let Some((op, binary)) = operators.iter().find(|(op, _)| self.is_op(op)) {
            self.expect_op(op)?;
            self.link(rest.len())?;
            rest.push((*binary, part(self)?));
        }
        Ok(match rest.is_empty() {
            true => first,
            false => Expr::Chain(Box::new(first), rest),
        })
    }

    fn sum(&mut self) -> Parsed<Expr> {
        self.chain(
            Parser::concat,
            &[("+", Binary::Add), ("-", Binary::Subtract)],
        )
    }

    fn concat(&mut self) -> Parsed<Expr> {
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_op("~") {
            self.link(parts.len())?;
            parts.push(self.product()?);
        }
        Ok(Expr::Concat(parts))
    }

    fn product(&mut self) -> Parsed<Expr> {
        let operators = [
            ("*", Binary::Multiply),
            ("/", Binary::Divide),
            ("//", Binary::FloorDivide),
            ("%", Binary::Remainder),
        ];
        self.chain(Parser::power, &operators)
    }

    fn power(&mut self) -> Parsed<Expr> {
        self.chain(|p| p.unary(true), &[("**", Binary::Power)])
    }

    fn unary(&mut self, filters: bool) -> Parsed<Expr> {
        let sign: Option<fn(Box<Expr>) -> Expr> = match self.peek() {
            Some(Token::Op("-")) => Some(Expr::Negate),
            Some(Token::Op("+")) => Some(Expr::Plus),
            _ => None,
        };
        let (base, mut suffixes) = match sign {
            Some(sign) => {
                self.next();
                let inner = self.nested(|p| p.unary(false))?;
                (sign(Box::new(inner)), Vec::new())
            }
            None => {
                let base = self.primary()?;
                let mut suffixes = Vec::new();
                self.postfix(&mut suffixes)?;
                (base, suffixes)
            }
        };
        if filters {
            self.filters(&mut suffixes)?;
        }
        Ok(match suffixes.is_empty() {
            true => base,
            false => Expr::Postfix(Box::new(base), suffixes),
        })
    }

    fn primary(&mut self) -> Parsed<Expr> {
        match self.peek() {
            Some(Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Name(_)) => {}
            Some(Token::Op("(" | "[" | "{")) => {}
            _ => return self.unexpected("a value"),
        }
        let constant = |c| Ok(Expr::Const(c));
        match self.next() {
            Some(Token::Int(n)) => constant(Const::Int(n)),
            Some(Token::Float(n)) => constant(Const::Float(n)),
            Some(Token::Str(mut text)) => {
                while let Some(Token::Str(more)) = self.peek() {
                    text.push_str(more);
                    self.next();
                }
                constant(Const::Text(Text::template(&text)))
            }
            Some(Token::Name(name)) => match name.as_str() {
                "true" | "True" => constant(Const::Bool(true)),
                "false" | "False" => constant(Const::Bool(false)),
                "none" | "None" => constant(Const::None),
                _ => {
                    self.takes.positional |= name == "varargs";
                    self.takes.named |= name == "kwargs";
                    Ok(Expr::Name(name.into()))
                }
            },
            Some(Token::Op("(")) => {
                let inner = self.nested(|p| p.tuple(&[")"], true))?;
                self.expect_op(")")?;
                Ok(inner)
            }
            Some(Token::Op("[")) => {
                let items = self.nested(|p| p.items("]"))?;
                Ok(Expr::List(items))
            }
            _ => self.nested(Parser::dictionary),
        }
    }

    /// Expressions up to a bracket, which is taken.
    fn items(&mut self, close: &str) -> Parsed<Vec<Expr>> {
        let mut items = Vec::new();
        while !self.skip_op(close) {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.skip_op(close) {
                    break;
                }
            }
            items.push(self.expression()?);
        }
        Ok(items)
    }

    fn dictionary(&mut self) -> Parsed<Expr> {
        let mut entries = Vec::new();
        while !self.skip_op("}") {
            if !entries.is_empty() {
                self.expect_op(",")?;
                if self.skip_op("}") {
                    break;
                }
            }
            let key = self.expression()?;
            self.expect_op(":")?;
            entries.push((key, self.expression()?));
        }
        Ok(Expr::Dict(entries))
    }

    /// An expression, or several with commas between them, which are a tuple.
    pub fn tuple(&mut self, ends: &[&str], empty: bool) -> Parsed<Expr> {
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            let ended = match self.peek() {
                None | Some(Token::BlockEnd | Token::PrintEnd) => true,
                Some(Token::Op(op)) => ends.contains(op),
                Some(Token::Name(name)) => ends.contains(&name.as_str()),
                _ => false,
            };
            if ended {
                break;
            }
            items.push(self.expression()?);
            if !self.skip_op(",") {
                break;
            }
            comma = true;
        }
        match items.pop() {
            Some(only) if !comma => Ok(only),
            None if !empty => self.unexpected("a value"),
            last => {
                items.extend(last);
                Ok(Expr::Tuple(items))
            }
        }
    }

    fn postfix(&mut self, suffixes: &mut Vec<Suffix>) -> Parsed<()> {
        loop {
            let suffix = match self.peek() {
                Some(Token::Op(".")) => {
                    self.next();
                    match self.next() {
                        Some(Token::Name(name)) => Suffix::Attribute(Text::template(&name)),
                        Some(Token::Int(n)) => Suffix::Item(Expr::Const(Const::Int(n))),
                        _ => return fail("syntax error (a name was expected after \".\")"),
                    }
                }
                Some(Token::Op("[")) => {
                    self.next();
                    self.nested(Parser::subscript)?
                }
                Some(Token::Op("(")) => Suffix::Call(self.arguments()?),
                _ => return Ok(()),
            };
            self.link(suffixes.len())?;
            suffixes.push(suffix);
        }
    }

    fn subscript(&mut self) -> Parsed<Suffix> {
        let mut parts: [Option<Expr>; 3] = Default::default();
        let mut colons = 0;
        let mut items = Vec::new();
        loop {
            if self.skip_op("]") {
                break;
            }
            if self.skip_op(":") {
                colons += 1;
                if colons > 2 || items.len() > 1 {
                    return fail("syntax error (a slice has three parts at most)");
                }
                if let Some(start) = items.pop() {
                    parts[0] = Some(start);
                }
            } else if colons > 0 {
                parts[colons] = Some(self.expression()?);
            } else {
                items.push(self.expression()?);
                if self.is_op(":") {
                    continue;
                }
                if !self.skip_op(",") && !self.is_op("]") {
                    return self.unexpected("\"]\"");
                }
            }
        }
        Ok(match (colons, items.len()) {
            (0, 1) => Suffix::Item(items.remove(0)),
            (0, _) => Suffix::Item(Expr::Tuple(items)),
            _ => Suffix::Slice(Box::new(parts)),
        })
    }

    /// `(a, b=c, *d, **e)`.
    fn arguments(&mut self) -> Parsed<Arguments> {
        self.expect_op("(")?;
        let mut all = Arguments::default();
        let mut first = true;
        while !self.skip_op(")") {
            if !first {
                self.expect_op(",")?;
                if self.skip_op(")") {
                    break;
                }
            }
            first = false;
            if self.skip_op("*") {
                all.list = Some(Box::new(self.expression()?));
            } else if self.skip_op("**") {
                all.dictionary = Some(Box::new(self.expression()?));
            } else if let [(Token::Name(_), _), (Token::Op("="), _), ..] = self.tokens.as_slice() {
                let name = self.name()?;
                self.next();
                all.named.push((name, self.expression()?));
            } else {
                if !all.named.is_empty() {
                    return fail("syntax error (a plain argument follows a named one)");
                }
                all.positional.push(self.expression()?);
            }
        }
        Ok(all)
    }

    /// Filters, tests, and calls of what they give.
    fn filters(&mut self, suffixes: &mut Vec<Suffix>) -> Parsed<()> {
        loop {
            self.link(suffixes.len())?;
            if self.skip_op("|") {
                suffixes.push(self.filter()?);
            } else if self.skip_name("is") {
                suffixes.push(self.test()?);
            } else if self.is_op("(") && !suffixes.is_empty() {
                suffixes.push(Suffix::Call(self.arguments()?));
            } else {
                return Ok(());
            }
        }
    }

    /// A filter, after its bar.
    pub fn filter(&mut self) -> Parsed<Suffix> {
        let name = self.name()?;
        let arguments = match self.is_op("(") {
            true => self.arguments()?,
            false => Arguments::default(),
        };
        Ok(Suffix::Filter(name, arguments))
    }

    fn test(&mut self) -> Parsed<Suffix> {
        let negated = self.skip_name("not");
        let name = self.name()?;
        let mut arguments = Arguments::default();
        match self.peek() {
            Some(Token::Op("(")) => arguments = self.arguments()?,
            Some(Token::Name(word))
                if ["else", "or", "and", "is", "if", "in", "not"].contains(&word.as_str()) => {}
            Some(
                Token::Name(_)
                | Token::Str(_)
                | Token::Int(_)
                | Token::Float(_)
                | Token::Op("[" | "{"),
            ) => {
                let base = self.nested(Parser::primary)?;
                let mut suffixes = Vec::new();
                self.postfix(&mut suffixes)?;
                arguments.positional.push(match suffixes.is_empty() {
                    true => base,
                    false => Expr::Postfix(Box::new(base), suffixes),
                });
            }
            _ => {}
        }
        Ok(Suffix::Test {
            name,
            arguments,
            negated,
        })
    }
}

fn describe(token: Option<&Token>) -> String {
    match token {
        None => "the end of the template".into(),
        Some(Token::Data(_)) => "text".into(),
        Some(Token::PrintStart) => "\"{{\"".into(),
        Some(Token::PrintEnd) => "\"}}\"".into(),
        Some(Token::BlockStart) => "\"{%\"".into(),
        Some(Token::BlockEnd) => "\"%}\"".into(),
        Some(Token::Name(name)) => format!("{:?}", crate::error::shown(name)),
        Some(Token::Str(_)) => "a string".into(),
        Some(Token::Int(_) | Token::Float(_)) => "a number".into(),
        Some(Token::Op(op)) => format!("{op:?}"),
    }
}
