//! The answer to a conversation as blocks, for wire formats that send items: texts and
//! calls, one after the other.

use crate::calls::Piece;
use crate::chat::{call_id, finish, Asked};
use crate::job::{self, Job};
use crate::prepare::{tally, Head};
use crate::sse::{Pieces, Shape};
use crate::types::*;
use crate::App;
use rustml_engine::Update;
use serde::Serialize;

/// How a wire format writes an answer.
pub(crate) trait Wire: Send + Sized + 'static {
    /// The whole answer.
    type Whole: Serialize;
    /// Before all blocks.
    fn begin(&mut self, answer: &Spoken, out: &mut Pieces);
    /// A block begins: the last one.
    fn open(&mut self, answer: &Spoken, out: &mut Pieces);
    /// The last block goes on.
    fn more(&mut self, text: String, answer: &Spoken, out: &mut Pieces);
    /// The last block is complete.
    fn close(&mut self, answer: &Spoken, out: &mut Pieces);
    /// The answer is complete.
    fn end(&mut self, answer: &Spoken, out: &mut Pieces);
    /// The answer failed.
    fn fail(&mut self, e: ApiError, answer: &Spoken, out: &mut Pieces);
    /// The whole answer.
    fn whole(self, answer: Spoken) -> Self::Whole;
}

/// A part of an answer.
pub(crate) enum Block {
    Text(String),
    Call(ToolCall),
}

/// What the model said so far.
pub(crate) struct Spoken {
    pub head: Head,
    pub blocks: Vec<Block>,
    pub usage: Usage,
    pub finish: Option<FinishReason>,
}

/// An answer that grows, and how it is written.
pub(crate) struct Answer<W> {
    wire: W,
    spoken: Spoken,
    parser: Option<crate::calls::CallParser>,
    begun: bool,
}

/// The job of an answer in this wire format.
pub(crate) fn job<W: Wire>(asked: Asked, stream: bool, wire: W) -> Job<Answer<W>> {
    let parser = asked.tools.as_ref().map(|t| t.parser(asked.thinking));
    Job {
        requests: asked.requests,
        shape: asked.shape,
        stream: stream.then_some(false),
        answers: Answer {
            wire,
            spoken: Spoken {
                head: asked.head,
                blocks: Vec::new(),
                usage: Usage {
                    prompt_tokens: asked.prompt_tokens,
                    ..Usage::default()
                },
                finish: None,
            },
            parser,
            begun: false,
        },
    }
}

impl<W: Wire> job::Answers for Answer<W> {
    type Whole = W::Whole;
    type Chunks = Self;

    fn left(&self) -> usize {
        usize::from(self.spoken.finish.is_none())
    }

    fn keep(&mut self, i: usize, update: Update) {
        self.take(i, update, &mut Pieces::default());
    }

    fn whole(self) -> W::Whole {
        self.wire.whole(self.spoken)
    }

    fn chunks(self, _: bool) -> Self {
        self
    }
}

impl<W: Wire> Shape for Answer<W> {
    const DONE: Option<&'static str> = None;

    fn left(&self) -> usize {
        job::Answers::left(self)
    }

    fn take(&mut self, _: usize, update: Update, out: &mut Pieces) {
        let (wire, spoken) = (&mut self.wire, &mut self.spoken);
        tally(&mut spoken.usage, &update, true);
        if !std::mem::replace(&mut self.begun, true) {
            wire.begin(spoken, out);
        }
        let last = update.finish.is_some();
        let pieces = match &mut self.parser {
            Some(parser) => parser.push(&update.text, last),
            None if update.text.is_empty() => Vec::new(),
            None => vec![Piece::Text(update.text)],
        };
        for piece in pieces {
            let new = match (&piece, spoken.blocks.last()) {
                (Piece::Text(_), Some(Block::Text(_))) | (Piece::Arguments { .. }, _) => None,
                (Piece::Text(_), _) => Some(Block::Text(String::new())),
                (Piece::Call { name, .. }, _) => Some(Block::Call(ToolCall {
                    id: call_id(),
                    kind: "function".into(),
                    function: FunctionCall {
                        name: name.clone(),
                        arguments: String::new(),
                    },
                })),
            };
            if let Some(new) = new {
                if !spoken.blocks.is_empty() {
                    wire.close(spoken, out);
                }
                spoken.blocks.push(new);
                wire.open(spoken, out);
            }
            if let Piece::Text(text) | Piece::Arguments { text, .. } = piece {
                match spoken.blocks.last_mut() {
                    Some(Block::Text(all)) => all.push_str(&text),
                    Some(Block::Call(call)) => call.function.arguments.push_str(&text),
                    None => {}
                }
                wire.more(text, spoken, out);
            }
        }
        let called = self.parser.as_ref().is_some_and(|p| p.calls() > 0);
        spoken.finish = update.finish.map(|(why, _)| finish(&why, called));
        if last && !spoken.blocks.is_empty() {
            wire.close(spoken, out);
        }
    }

    fn end(&mut self, out: &mut Pieces) {
        self.wire.end(&self.spoken, out);
    }

    fn fail(&mut self, e: ApiError, out: &mut Pieces) {
        self.wire.fail(e, &self.spoken, out);
    }
}

impl App {
    /// Says in the log what of a request has no effect.
    pub fn without_effect(&self, what: &str) {
        tracing::warn!(target: "rustml_server", "{what} has no effect here");
    }
}
