//! From what a client asks for to requests for the engine.

use crate::types::{ApiError, CommonFields, ResponseFormat};
use crate::App;
use rustml_engine::{Request, Sampling};
use std::hash::{BuildHasher, Hasher};

/// A number that is another one every time.
pub(crate) fn any_number() -> u64 {
    let state = std::collections::hash_map::RandomState::new();
    state.build_hasher().finish()
}

impl App {
    /// Whether `name` is the model that is served; its name.
    pub fn model(&self, name: Option<&str>) -> Result<String, ApiError> {
        let Some(name) = name else {
            return Ok(self.names[0].clone());
        };
        match self.names.iter().find(|n| *n == name) {
            Some(name) => Ok(name.clone()),
            None => Err(self.no_model(name)),
        }
    }

    pub fn no_model(&self, name: &str) -> ApiError {
        let says = format!(
            "there is no model {name:?} here; this server has {:?}",
            self.names[0]
        );
        let status = axum::http::StatusCode::NOT_FOUND;
        ApiError::new(status, says)
            .param("model")
            .code("model_not_found")
    }

    /// How many answers each prompt gets.
    pub fn choices(&self, n: Option<usize>, prompts: usize) -> Result<usize, ApiError> {
        let n = n.unwrap_or(1);
        let most = self.config.max_choices;
        match n.checked_mul(prompts) {
            _ if n == 0 => Err(ApiError::field("n", "n must be at least 1")),
            Some(all) if all <= most => Ok(n),
            _ => Err(ApiError::field(
                "n",
                format!("{n} answers to each of {prompts} prompts are more than this server gives to a request ({most})"),
            )),
        }
    }

    /// Tokens of an answer, where a request says how many.
    pub fn max_tokens(
        &self,
        field: &str,
        asked: Option<usize>,
        default: usize,
    ) -> Result<usize, ApiError> {
        let most = self.config.max_tokens.unwrap_or(self.context);
        match asked {
            Some(asked) if self.config.max_tokens.is_some() && asked > most => {
                Err(ApiError::field(
                    field,
                    format!("{field} is {asked}, but this server gives {most} tokens at most"),
                ))
            }
            Some(asked) => Ok(asked),
            None => Ok(default.min(most)),
        }
    }

    /// What all answers to a request have in common.
    pub fn request(&self, c: &CommonFields) -> Result<Request, ApiError> {
        self.not_yet(c)?;
        let sampling = Sampling {
            temperature: c.temperature.unwrap_or(1.0),
            top_k: c.top_k.unwrap_or(0),
            top_p: c.top_p.unwrap_or(1.0),
            min_p: c.min_p.unwrap_or(0.0),
            repetition_penalty: c.repetition_penalty.unwrap_or(1.0),
            seed: c.seed.map_or_else(any_number, |s| s as u64),
        };
        sampling.validate().map_err(ApiError::bad)?;
        Ok(Request {
            prompt: Vec::new(),
            sampling,
            max_tokens: 0,
            continues: false,
            keep: false,
            ignore_end: false,
        })
    }

    /// What the engine cannot do yet.
    fn not_yet(&self, c: &CommonFields) -> Result<(), ApiError> {
        let format = c.response_format.as_ref();
        for (name, given) in [
            ("stop", c.stop.is_some()),
            (
                "presence_penalty",
                c.presence_penalty.is_some_and(|p| p != 0.0),
            ),
            (
                "frequency_penalty",
                c.frequency_penalty.is_some_and(|p| p != 0.0),
            ),
            (
                "logit_bias",
                c.logit_bias.as_ref().is_some_and(|b| !b.is_empty()),
            ),
            (
                "response_format",
                format.is_some_and(|f| !matches!(f, ResponseFormat::Text)),
            ),
            ("grammar", c.grammar.is_some()),
            ("regex", c.regex.is_some()),
        ] {
            if given {
                return Err(ApiError::unsupported(name, " yet"));
            }
        }
        Ok(())
    }
}
