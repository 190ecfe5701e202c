//! Statements: tokens to a tree.

use crate::ast::{Block, Expr, For, Kind, Macro, Statement, Suffix, Target, Tree};
use crate::error::{fail, Fault};
use crate::lex::{tokens, Token};
use crate::parse::Parser;
use crate::text::Text;
use std::sync::Arc;

type Parsed<T> = Result<T, Fault>;

/// Parses a template.
pub(crate) fn parse(source: &str) -> Parsed<Tree> {
    let mut parser = Parser::new(tokens(source)?);
    let body = parser
        .block(&[])
        .map_err(|fault| fault.at_line(parser.line))?;
    Ok(Tree {
        body,
        ..parser.tree
    })
}

impl Parser {
    /// Statements up to one of these tags, of which only the name is left,
    /// or to the end of the template if there are none.
    fn block(&mut self, ends: &[&str]) -> Parsed<Block> {
        let mut block = Vec::new();
        loop {
            let Some(token) = self.next() else {
                return match ends.last() {
                    None => Ok(block),
                    Some(end) => fail(format!("syntax error ({end} is missing)")),
                };
            };
            let line = self.line;
            let kind = match token {
                Token::Data(text) => Kind::Data(Text::template(&text)),
                Token::PrintStart => {
                    let value = self.nested(|p| p.tuple(&[], false))?;
                    self.expect(Token::PrintEnd)?;
                    Kind::Print(value)
                }
                Token::BlockStart => {
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(block);
                    }
                    self.nested(Parser::statement)?
                }
                _ => return self.unexpected("a tag"),
            };
            block.push(Statement { line, kind });
        }
    }

    /// Statements up to this tag, which is taken.
    fn body(&mut self, end: &str) -> Parsed<Block> {
        self.expect(Token::BlockEnd)?;
        let block = self.block(&[end])?;
        self.next();
        Ok(block)
    }

    fn end_tag(&mut self, end: &str) -> Parsed<Block> {
        let block = self.body(end)?;
        self.expect(Token::BlockEnd)?;
        Ok(block)
    }

    fn statement(&mut self) -> Parsed<Kind> {
        let name = self.name()?;
        let kind = match name.as_str() {
            "if" => return self.condition(),
            "for" => return self.for_loop(),
            "set" => return self.set(),
            "with" => return self.with(),
            "macro" => return self.macro_definition(),
            "call" => return self.call(),
            "filter" => {
                let filters = self.filter_chain()?;
                Kind::Filter(filters, self.end_tag("endfilter")?)
            }
            "generation" => Kind::Scope(self.end_tag("endgeneration")?),
            "block" => {
                self.name()?;
                while self.skip_name("scoped") || self.skip_name("required") {}
                let body = self.body("endblock")?;
                if matches!(self.peek(), Some(Token::Name(_))) {
                    self.next();
                }
                self.expect(Token::BlockEnd)?;
                Kind::Scope(body)
            }
            "do" => {
                let value = self.expression()?;
                self.expect(Token::BlockEnd)?;
                Kind::Do(value)
            }
            "break" | "continue" => {
                if !self.in_loop {
                    return fail(format!("syntax error ({name} stands outside of a loop)"));
                }
                self.expect(Token::BlockEnd)?;
                match name.as_str() {
                    "break" => Kind::Break,
                    _ => Kind::Continue,
                }
            }
            "include" | "import" | "from" | "extends" => {
                return fail(format!(
                    "{name}: template not found, since a chat template has no other files"
                ))
            }
            other => {
                let other = crate::error::shown(other);
                return fail(format!("syntax error (there is no statement {other:?})"));
            }
        };
        Ok(kind)
    }

    fn condition(&mut self) -> Parsed<Kind> {
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            self.link(branches.len())?;
            let condition = self.tuple(&[], false)?;
            self.expect(Token::BlockEnd)?;
            let block = self.block(&["elif", "else", "endif"])?;
            branches.push((condition, block));
            match self.name()?.as_str() {
                "elif" => continue,
                "else" => {
                    otherwise = self.end_tag("endif")?;
                    break;
                }
                _ => {
                    self.expect(Token::BlockEnd)?;
                    break;
                }
            }
        }
        Ok(Kind::If(branches, otherwise))
    }

    fn for_loop(&mut self) -> Parsed<Kind> {
        let target = self.targets()?;
        if !self.skip_name("in") {
            return self.unexpected("\"in\"");
        }
        let over = self.loop_source()?;
        let filter = match self.skip_name("if") {
            true => Some(self.expression()?),
            false => None,
        };
        let recursive = self.skip_name("recursive");
        self.expect(Token::BlockEnd)?;
        let outer = std::mem::replace(&mut self.in_loop, true);
        let body = self.block(&["else", "endfor"])?;
        self.in_loop = outer;
        let otherwise = match self.name()?.as_str() {
            "else" => self.body("endfor")?,
            _ => Vec::new(),
        };
        self.expect(Token::BlockEnd)?;
        self.tree.loops.push(For {
            target,
            over,
            filter,
            body,
            otherwise,
            recursive,
        });
        Ok(Kind::For(self.tree.loops.len() - 1))
    }

    /// Names with commas between them.
    fn targets(&mut self) -> Parsed<Target> {
        let first = self.target()?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_op(",") {
            if matches!(self.peek(), Some(Token::Op("=") | Token::Op(")"))) || self.is_name("in") {
                break;
            }
            all.push(self.target()?);
        }
        Ok(Target::Tuple(all))
    }

    fn target(&mut self) -> Parsed<Target> {
        if self.skip_op("(") {
            let inner = self.nested(Parser::targets)?;
            self.expect_op(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if ["true", "false", "none", "True", "False", "None", "loop"].contains(&name.as_str()) {
            return fail(format!("syntax error ({name} cannot be set)"));
        }
        if !self.skip_op(".") {
            return Ok(Target::Name(name.into()));
        }
        let attribute = self.name()?;
        Ok(Target::Attribute(name.into(), Text::template(&attribute)))
    }

    fn set(&mut self) -> Parsed<Kind> {
        let target = self.targets()?;
        if self.skip_op("=") {
            let value = self.tuple(&[], false)?;
            self.expect(Token::BlockEnd)?;
            return Ok(Kind::Set(target, value));
        }
        let filters = match self.skip_op("|") {
            true => self.filter_chain()?,
            false => Vec::new(),
        };
        Ok(Kind::SetBlock(target, filters, self.end_tag("endset")?))
    }

    fn filter_chain(&mut self) -> Parsed<Vec<Suffix>> {
        let mut filters = vec![self.filter()?];
        while self.skip_op("|") {
            self.link(filters.len())?;
            filters.push(self.filter()?);
        }
        Ok(filters)
    }

    fn with(&mut self) -> Parsed<Kind> {
        let mut values = Vec::new();
        while self.peek() != Some(&Token::BlockEnd) {
            if !values.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.target()?;
            self.expect_op("=")?;
            values.push((target, self.expression()?));
        }
        Ok(Kind::With(values, self.end_tag("endwith")?))
    }

    /// `(a, b=1)`.
    fn parameters(&mut self) -> Parsed<Vec<(Arc<str>, Option<Expr>)>> {
        self.expect_op("(")?;
        let mut parameters = Vec::new();
        while !self.skip_op(")") {
            if !parameters.is_empty() {
                self.expect_op(",")?;
                if self.skip_op(")") {
                    break;
                }
            }
            let name = self.name()?;
            let default = match self.skip_op("=") {
                true => Some(self.expression()?),
                false => None,
            };
            parameters.push((name.into(), default));
        }
        Ok(parameters)
    }

    fn add_macro(
        &mut self,
        name: String,
        parameters: Vec<(Arc<str>, Option<Expr>)>,
        end: &str,
    ) -> Parsed<usize> {
        let outer = (
            std::mem::replace(&mut self.in_loop, false),
            std::mem::take(&mut self.takes),
        );
        let body = self.end_tag(end)?;
        let takes = self.takes;
        (self.in_loop, self.takes) = outer;
        self.tree.macros.push(Macro {
            name: name.into(),
            parameters,
            body,
            takes,
        });
        Ok(self.tree.macros.len() - 1)
    }

    fn macro_definition(&mut self) -> Parsed<Kind> {
        let name = self.name()?;
        let parameters = self.parameters()?;
        Ok(Kind::Macro(self.add_macro(name, parameters, "endmacro")?))
    }

    fn call(&mut self) -> Parsed<Kind> {
        let parameters = match self.is_op("(") {
            true => self.parameters()?,
            false => Vec::new(),
        };
        let call = self.expression()?;
        match &call {
            Expr::Postfix(_, suffixes) if matches!(suffixes.last(), Some(Suffix::Call(_))) => {}
            _ => return fail("syntax error (a call block needs a call)"),
        }
        let caller = self.add_macro("caller".into(), parameters, "endcall")?;
        Ok(Kind::Call(call, caller))
    }
}
