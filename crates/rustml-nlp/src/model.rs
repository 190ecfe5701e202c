//! A model and its tokenizer, found by name and ready to generate.

use crate::error::{Error, Result};
use crate::generate::{generate, Generation, Options, Piece, Prompt};
use crate::memory::check_memory;
use crate::session::Session;
use rustml_engine::{Engine, EngineConfig, Observer};
use rustml_hub::Hub;
use rustml_io::{DType, FileFormat, Store};
use rustml_model::spec::Spec;
use rustml_model::{
    Batch, Calibration, Capacity, Exec, KvPool, KvSequence, KvType, LoadTimes, Output, Quantize,
    Team,
};
use rustml_tokenizer::{Encode, Message, Tokenizer};
use rustml_trace::{Detail, Recorder};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The model that is used where none is named.
pub const DEFAULT_MODEL: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";

/// Rows of a step: prompts are computed in chunks of that size.
pub const STEP_ROWS: usize = 256;

/// More positions than any model has, few enough to count with.
const MAX_CONTEXT: usize = 1 << 28;

/// How many positions a sequence may have: prompt and answer together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Context {
    /// As many as the model was made for.
    #[default]
    Model,
    /// That, but no more than this many.
    AtMost(usize),
    /// This many, even if the model was not made for them; its answers may
    /// become poor beyond. Where positions are learned (GPT-2) there are no
    /// others, and loading fails.
    Exactly(usize),
}

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Compute threads; `None` takes what the process may use.
    pub threads: Option<usize>,
    /// Format of the linear layers; `None` takes [`default_quantize`].
    pub quantize: Option<Quantize>,
    /// Positions of a sequence.
    pub context: Context,
    /// How keys and values are stored; `None` takes half precision.
    pub kv_type: Option<KvType>,
    /// Whether to run one step after loading, so that the first real one finds
    /// threads and memory awake.
    pub warm_up: bool,
    /// Whether to load weights for which the machine, or the control group, says that it has
    /// no memory.
    pub force: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            threads: None,
            quantize: None,
            context: Context::default(),
            kv_type: None,
            warm_up: true,
            force: false,
        }
    }
}

/// The format of linear layers where none is asked for: safetensors are
/// quantised to Q8_0, GGUF files are left as they are.
pub fn default_quantize(format: FileFormat) -> Quantize {
    match format {
        FileFormat::Gguf { .. } => Quantize::None,
        FileFormat::Safetensors => Quantize::To(DType::Q8_0),
    }
}

/// CPUs that this process may really use: those it is allowed on, and no more
/// than its cgroup's quota grants, rounded down; at least 1.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Refuses a model for which there is no memory, unless told otherwise.
pub(crate) fn has_memory(store: &Store, options: &LoadOptions) -> Result<()> {
    if options.force {
        return Ok(());
    }
    let quantize = options.quantize.unwrap_or(default_quantize(store.format()));
    check_memory(store, quantize)
}

/// A loaded model.
pub struct Model {
    path: PathBuf,
    model: Arc<rustml_model::Model>,
    tokenizer: Arc<Tokenizer>,
    context: usize,
    kv_type: KvType,
    load_time: Duration,
    load_phases: Vec<(&'static str, Duration)>,
    observer: Option<(Detail, Observer)>,
    draft: Option<Arc<rustml_model::Model>>,
}

impl Model {
    /// Loads a model by its path, or by its name (`org/name`) from the local
    /// cache or the hub.
    ///
    /// # Errors
    /// If it cannot be found, read, or run here.
    pub fn load(name: &str, options: &LoadOptions) -> Result<Model> {
        let path = Hub::from_env()?.resolve(name)?;
        Model::open(&path, options, &mut |_, _| {})
    }

    /// Loads the model at `path`; `progress` is called with the bytes read so
    /// far and all there are.
    ///
    /// # Errors
    /// If it cannot be read, or not be run here.
    pub fn open(
        path: &Path,
        options: &LoadOptions,
        progress: rustml_model::Progress,
    ) -> Result<Model> {
        let start = Instant::now();
        let mut phases = Phases {
            start,
            all: Vec::new(),
        };
        let store = Store::open(path)?;
        // Of what is no model, its vocabulary is not the thing to complain of.
        rustml_model::arch::Arch::of(&store)?;
        phases.end("open");
        let tokenizer = Model::tokenizer_of(&store)?;
        phases.end("tokenizer");
        has_memory(&store, options)?;
        let team = rustml_model::team(options.threads.unwrap_or_else(available_threads))?;
        let model = load_weights(&store, options.quantize, team, progress)?;
        phases.end_load(&model.report().times);
        let context = context(path, options.context, model.spec())?;
        let kv_type = options.kv_type.unwrap_or(KvType::F16);
        if options.warm_up {
            warm_up(&model, kv_type)?;
            phases.end("warm up");
        }
        Ok(Model {
            path: path.to_owned(),
            context,
            kv_type,
            model: Arc::new(model),
            tokenizer: Arc::new(tokenizer),
            load_time: start.elapsed(),
            load_phases: phases.all,
            observer: None,
            draft: None,
        })
    }

    /// Loads a smaller model of the same vocabulary, which guesses tokens ahead
    /// from now on; this one checks several at a time, so that they come
    /// sooner where that pays, and stay the same. Of the options only
    /// `quantize` and `warm_up` matter: it runs on the same threads, and its
    /// cache is like the model's.
    ///
    /// # Errors
    /// If it cannot be read or run, or has another vocabulary.
    pub fn set_draft(
        &mut self,
        path: &Path,
        options: &LoadOptions,
        progress: rustml_model::Progress,
    ) -> Result<()> {
        let store = Store::open(path)?;
        let tokenizer = Model::tokenizer_of(&store)?;
        let differs = |source| Error::Draft {
            path: path.to_owned(),
            source,
        };
        rustml_engine::same_vocabulary(&self.tokenizer, &tokenizer).map_err(differs)?;
        has_memory(&store, options)?;
        let team = self.model.team().clone();
        let draft = load_weights(&store, options.quantize, team, progress)?;
        if options.warm_up {
            warm_up(&draft, self.kv_type)?;
        }
        self.draft = Some(Arc::new(draft));
        Ok(())
    }

    /// The tokenizer of an open model.
    ///
    /// # Errors
    /// If it is missing or broken.
    pub fn tokenizer_of(store: &Store) -> Result<Tokenizer> {
        let tokenizer = match store.format() {
            FileFormat::Gguf { .. } => Tokenizer::from_gguf(store.metadata()),
            FileFormat::Safetensors => Tokenizer::from_dir(store.directory()),
        };
        tokenizer.map_err(|source| Error::Tokenizer {
            path: store.path().to_owned(),
            source,
        })
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Weights and architecture.
    pub fn model(&self) -> &Arc<rustml_model::Model> {
        &self.model
    }
    /// The model that guesses tokens ahead, if there is one.
    pub fn draft(&self) -> Option<&Arc<rustml_model::Model>> {
        self.draft.as_ref()
    }
    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }
    /// Positions of a sequence.
    pub fn context(&self) -> usize {
        self.context
    }
    /// Compute threads.
    pub fn threads(&self) -> usize {
        self.model.team().pool.threads()
    }
    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }
    /// What loading consisted of; all of it together is
    /// [`Model::load_time`], but for what lies between.
    pub fn load_phases(&self) -> &[(&'static str, Duration)] {
        &self.load_phases
    }

    /// Shows every step of requests and conversations that begin from now on
    /// to `observer`, as closely as `detail` says. The observer is called
    /// between steps, in the thread that runs them.
    pub fn observe(&mut self, detail: Detail, observer: Observer) {
        self.observer = Some((detail, observer));
    }

    /// The tokens of a text that is to be continued.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it.
    pub fn encode(&self, text: &str) -> Result<Prompt> {
        let options = Encode {
            add_special: true,
            parse_special: true,
        };
        let ids = self.tokenizer.encode(text, options);
        Ok(Prompt {
            ids: ids.map_err(|e| self.tokenizer_error(e))?,
            continues: true,
        })
    }

    /// The tokens of a conversation that is to be answered, by the model's
    /// own template.
    ///
    /// # Errors
    /// If the model has no template, or it refuses the messages.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Prompt> {
        let template = self.tokenizer.chat_template();
        let template = template.ok_or_else(|| Error::NoTemplate(self.path.clone()))?;
        let text = template.render(messages, true, serde_json::Value::Null);
        let ids = text.and_then(|t| self.tokenizer.encode_chat(&t));
        Ok(Prompt {
            ids: ids.map_err(|e| self.tokenizer_error(e))?,
            continues: false,
        })
    }

    fn tokenizer_error(&self, source: rustml_tokenizer::Error) -> Error {
        Error::Tokenizer {
            path: self.path.clone(),
            source,
        }
    }

    /// Continues a text.
    ///
    /// # Errors
    /// If the prompt is empty or does not fit, or a setting is out of range.
    pub fn generate(&self, prompt: &str, options: &Options) -> Result<Generation> {
        let prompt = self.encode(prompt)?;
        let mut all = self.generate_all(vec![prompt], options, &mut |_| true)?;
        Ok(all.remove(0))
    }

    /// Answers a conversation.
    ///
    /// # Errors
    /// If the model has no chat template, the conversation does not fit, or a
    /// setting is out of range.
    pub fn chat(&self, messages: &[Message], options: &Options) -> Result<Generation> {
        let prompt = self.encode_chat(messages)?;
        let mut all = self.generate_all(vec![prompt], options, &mut |_| true)?;
        Ok(all.remove(0))
    }

    /// Continues several prompts together, in their order. `sink` is called
    /// with every piece of text as it comes; when it returns false, all stop.
    ///
    /// # Errors
    /// As for [`Model::generate`].
    pub fn generate_all(
        &self,
        prompts: Vec<Prompt>,
        options: &Options,
        sink: &mut dyn FnMut(Piece) -> bool,
    ) -> Result<Vec<Generation>> {
        generate(self, prompts, options, sink)
    }

    /// A conversation that keeps its keys and values between turns.
    ///
    /// # Errors
    /// If the memory for the context cannot be had.
    pub fn session(&self, system: Option<&str>) -> Result<Session<'_>> {
        Session::new(self, system)
    }

    /// How keys and values are stored.
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// Bytes of the recurrent states that an engine for `sequences` at a time has room for;
    /// none where the model has no such states.
    pub fn state_bytes(&self, sequences: usize) -> usize {
        let config = EngineConfig {
            sequences,
            ..EngineConfig::default()
        };
        let spec = self.model.spec();
        config.states(spec) * KvPool::state_bytes(spec)
    }

    /// An engine for `sequences` at a time that together take `positions`;
    /// `speculate` lets it guess tokens ahead from what a text already said. They
    /// are the same tokens.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn engine(&self, sequences: usize, positions: usize, speculate: bool) -> Result<Engine> {
        let detail = if tracing::enabled!(target: "rustml::step", tracing::Level::TRACE) {
            Detail::Parts
        } else if tracing::enabled!(target: "rustml::step", tracing::Level::DEBUG) {
            Detail::Operations
        } else {
            Detail::Off
        };
        let wanted = self.observer.as_ref().map_or(Detail::Off, |o| o.0);
        let config = EngineConfig {
            context: self.context,
            cache_positions: positions,
            sequences,
            rows: STEP_ROWS.min(positions.max(1)),
            kv_type: self.kv_type,
            detail: detail.max(wanted),
            speculate,
            ..EngineConfig::default()
        };
        let mut engine = Engine::new(self.model.clone(), self.tokenizer.clone(), config)?;
        if let Some(draft) = &self.draft {
            engine.set_draft(draft.clone())?;
        }
        if let Some((_, observer)) = &self.observer {
            engine.set_observer(observer.clone());
        }
        Ok(engine)
    }
}

/// The phases of loading, one after the other.
struct Phases {
    /// The end of the last one.
    start: Instant,
    all: Vec<(&'static str, Duration)>,
}

impl Phases {
    fn end(&mut self, name: &'static str) {
        self.all.push((name, self.start.elapsed()));
        self.start = Instant::now();
    }

    /// Ends the loading of weights, which is several phases.
    fn end_load(&mut self, t: &LoadTimes) {
        let known = t.read + t.quantise + t.pack + t.calibrate;
        let other = self.start.elapsed().saturating_sub(known);
        if !t.calibrate.is_zero() {
            self.all.push(("calibrate", t.calibrate));
        }
        self.all.extend([
            ("read", t.read),
            ("quantise", t.quantise),
            ("pack", t.pack),
            ("other", other),
        ]);
        self.start = Instant::now();
    }
}

/// Loads weights, for [`Quantize::Auto`] with what was measured before.
pub(crate) fn load_weights(
    store: &Store,
    quantize: Option<Quantize>,
    team: Arc<Team>,
    progress: rustml_model::Progress,
) -> Result<rustml_model::Model> {
    let quantize = quantize.unwrap_or(default_quantize(store.format()));
    let mut formats = match (quantize, formats_file()) {
        (Quantize::Auto, Some(file)) => Calibration::open(&file, &team),
        _ => Calibration::default(),
    };
    if let Some(problem) = formats.problem() {
        tracing::warn!(
            target: "rustml::load",
            "formats are measured anew, since those kept cannot be read: {problem}"
        );
    }
    let model = rustml_model::Model::load_with(store, quantize, &mut formats, team, progress)?;
    if let Err(e) = formats.save() {
        tracing::warn!(target: "rustml::load", "the formats measured cannot be kept: {e}");
    }
    Ok(model)
}

/// Runs one step of one row.
fn warm_up(model: &rustml_model::Model, kv_type: KvType) -> Result<()> {
    let capacity = Capacity {
        rows: 1,
        logit_rows: 1,
    };
    let mut kv = KvPool::new(model.spec(), 1, kv_type)?;
    let mut exec = Exec::new(model, capacity, Recorder::new(Detail::Off));
    let mut sequence = KvSequence::default();
    let fits = kv.reserve(&mut sequence, 1);
    assert!(fits, "the pool was made for it");
    let mut batch = Batch::default();
    let output = match model.spec().head {
        Some(_) => Output::Logits(1),
        None => Output::Hidden(1),
    };
    batch.push(&sequence, &[0], 1, output);
    model.forward(&batch, &mut kv, &mut exec);
    kv.release(sequence);
    Ok(())
}

/// Where formats that were found by measuring are kept.
fn formats_file() -> Option<PathBuf> {
    let folder = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Some(cache?.join("rustml/formats.json"))
}

/// The positions of a sequence, if the model can have that many.
pub(crate) fn context(path: &Path, wanted: Context, spec: &Spec) -> Result<usize> {
    let most = match spec.embedding.learned_positions {
        true => spec.context,
        false => MAX_CONTEXT,
    };
    let context = match wanted {
        Context::Model => spec.context,
        Context::AtMost(n) => spec.context.min(n),
        Context::Exactly(wanted) if wanted > most => {
            return Err(Error::Context {
                path: path.to_owned(),
                wanted,
                most,
            })
        }
        Context::Exactly(n) => n,
    };
    if context > spec.context {
        tracing::warn!(
            target: "rustml::load",
            "{} was made for {} positions; with {context}, expect poor text beyond those",
            path.display(),
            spec.context
        );
    }
    Ok(context)
}
