//! A conversation.

use crate::error::{Error, Result};
use crate::generate::{drain, Generation, Options};
use crate::model::Model;
use rustml_engine::{Engine, Refusal, Request};
use rustml_model::KV_BLOCK;
use rustml_tokenizer::Message;

/// A conversation with a model. Keys and values of what was said stay in the
/// cache, so that a turn computes only what is new.
///
/// ```no_run
/// # fn main() -> rustml_nlp::Result<()> {
/// # use rustml_nlp::{LoadOptions, Model, Options};
/// let model = Model::load("models/SmolLM2-135M-Instruct.Q4_1.gguf", &LoadOptions::default())?;
/// let mut session = model.session(Some("You are brief."))?;
/// for question in ["Who wrote Faust?", "When?"] {
///     let answer = session.say(question, &Options::default(), &mut |piece| {
///         print!("{piece}");
///         true
///     })?;
///     println!(" ({} tokens computed)", answer.timings.computed_tokens());
/// }
/// # Ok(()) }
/// ```
pub struct Session<'m> {
    model: &'m Model,
    engine: Engine,
    messages: Vec<Message>,
}

impl<'m> Session<'m> {
    pub(crate) fn new(model: &'m Model, system: Option<&str>) -> Result<Session<'m>> {
        // The turn before stays beside the next, which continues a copy of its
        // last block.
        let positions = model.context().saturating_add(2 * KV_BLOCK);
        let mut session = Session {
            model,
            engine: model.engine(1, positions, false)?,
            messages: Vec::new(),
        };
        session.clear(system);
        Ok(session)
    }

    /// Forgets what was said, and begins with this system message.
    pub fn clear(&mut self, system: Option<&str>) {
        self.messages.clear();
        let system = system.map(|s| Message::new("system", s));
        self.messages.extend(system);
    }

    /// What was said so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Says something and returns the answer, whose pieces go to `sink` as
    /// they come; when it returns false, the answer ends there.
    ///
    /// # Errors
    /// If the conversation no longer fits the context
    /// ([`Error::ConversationTooLong`]), or the model has no chat template or
    /// one that refuses the message. The conversation is then as it was.
    pub fn say(
        &mut self,
        text: &str,
        options: &Options,
        sink: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generation> {
        self.messages.push(Message::new("user", text));
        let answer = self.answer(options, sink);
        match &answer {
            Ok(answer) => self
                .messages
                .push(Message::new("assistant", answer.text.as_str())),
            Err(_) => drop(self.messages.pop()),
        }
        answer
    }

    fn answer(
        &mut self,
        options: &Options,
        sink: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generation> {
        let prompt = self.model.encode_chat(&self.messages)?;
        let mut generation = Generation::new(prompt.ids.len());
        let request = Request {
            prompt: prompt.ids,
            sampling: options.sampling,
            max_tokens: options.max_tokens,
            continues: false,
            ignore_end: options.ignore_end,
            ..Request::default()
        };
        let id = self.engine.submit(request);
        id.map_err(|refusal| match refusal {
            Refusal::PromptTooLong { prompt, context } => Error::ConversationTooLong {
                tokens: prompt,
                context,
            },
            other => Error::Refused(other),
        })?;
        drain(&mut self.engine, options, &mut |update| {
            generation.take(update);
            update.text.is_empty() || sink(&update.text)
        });
        Ok(generation)
    }
}
