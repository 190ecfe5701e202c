//! `rustml serve`: OpenAI's API and a chat page.

mod encoder;

use crate::fingerprint;
use rustml_kernels::roof;
use rustml_model::{KvPool, KV_BLOCK};
use rustml_nlp::cli::{
    examples, note, open, open_draft, DraftArgs, Failure, ModelArgs, Profile, ProfileArgs, Signals,
};
use rustml_nlp::{Model, Pooling};
use rustml_server::{serve, Config, MakeEngine, Served};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The part of the free memory that the cache takes unless told otherwise.
const SHARE: f64 = 0.5;

/// Time after the first signal in which a second one is the same: `timeout` and
/// supervisors send theirs to a process and to its group.
const PATIENCE: Duration = Duration::from_secs(1);

/// For measuring how fast memory is.
const ROOF_TIME: Duration = Duration::from_millis(50);

/// Serve a model to many users at a time, by OpenAI's API
///
/// Clients, SDKs and front ends for OpenAI's API work with it when they are
/// given its address: http://127.0.0.1:8080/v1. A browser finds a page to chat
/// with at http://127.0.0.1:8080. Requests that come while others run share
/// every step of the computation with them; those beyond --slots wait, those
/// beyond --queue are refused with status 429.
///
/// Ctrl-C or SIGTERM ends it when running requests are through. One line of
/// log for each request goes to standard error; RUST_LOG=warn leaves it out.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |a| a.value_name("MODEL")),
    after_help = examples(&[
        ("Serve the default model to this machine", "rustml serve"),
        ("Ask it something",
         "curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \
          -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Name a river.\"}]}'"),
        ("Serve a network, to those who have a key",
         "rustml serve model.gguf --host 0.0.0.0 --api-key @keys.txt"),
    ]),
)]
pub struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    draft: DraftArgs,

    /// The address to listen at; others than the machine's own need --api-key
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1",
        help_heading = "Network"
    )]
    host: String,

    /// The port to listen at; 0 takes a free one
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8080,
        help_heading = "Network"
    )]
    port: u16,

    /// A key that requests have to bring, or @FILE with one a line; may be
    /// repeated
    #[arg(
        long,
        value_name = "KEY|@FILE",
        env = "RUSTML_API_KEY",
        hide_env_values = true,
        help_heading = "Network"
    )]
    api_key: Vec<String>,

    /// Serve everybody who reaches an address that is not the machine's own
    #[arg(long, help_heading = "Network")]
    allow_anonymous: bool,

    #[allow(rustdoc::bare_urls)] // the text is also that of --help
    /// A web origin whose pages may use the API, as https://chat.example.org,
    /// or * for all; may be repeated
    #[arg(long, value_name = "ORIGIN", help_heading = "Network")]
    cors_origin: Vec<String>,

    /// A name by which browsers may call a server that listens to this machine
    /// alone and asks for no key, beside localhost; may be repeated. Where others
    /// are let in: the only names by which they may
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    allow_host: Vec<String>,

    /// Let requests with different keys find in the cache what others computed:
    /// faster, but times then tell one what another asked
    #[arg(long, help_heading = "Network")]
    share_prefix_cache: bool,

    /// Another name for the model, for clients that ask for one they know; may
    /// be repeated
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    alias: Vec<String>,

    /// Answers that are generated at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = parse_slots, help_heading = "Limits")]
    slots: usize,

    /// Answers that wait for a slot; those beyond are refused
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Limits")]
    queue: usize,

    /// Memory for keys and values, a draft model's included, as 512M or 4G
    /// [default: half of what is free, and no more than --slots and --ctx-size
    /// can use]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Limits")]
    kv_memory: Option<u64>,

    /// Guess tokens ahead from what a text already said, and check several at a
    /// time: answers that repeat their prompt come faster, all stay the same
    #[arg(long, help_heading = "Limits")]
    speculate: bool,

    /// Tokens of an answer at most [default: what the context has room for]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    max_tokens: Option<usize>,

    /// Answers to one request at most: its n, times its prompts
    #[arg(long, value_name = "N", default_value_t = 16, help_heading = "Limits")]
    max_choices: usize,

    /// Bytes of a request at most, as 4M
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = parse_size, help_heading = "Limits")]
    max_body: u64,

    /// Seconds that running requests have to end in, after Ctrl-C or SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = parse_seconds, help_heading = "Limits")]
    drain_timeout: f64,

    /// Turn texts into vectors at /v1/embeddings as well, by this pooling of the
    /// states of a model that generates: mean, cls or last. Of a model that was made
    /// for vectors, it replaces what its files say
    #[arg(long, value_name = "KIND", value_parser = crate::embed::parse_pooling)]
    pooling: Option<Pooling>,

    #[command(flatten)]
    profile: ProfileArgs,
}

/// Runs the command.
pub fn run(args: &ServeArgs, signals: &Signals) -> Result<(), Failure> {
    let mut config = config(args)?;
    args.profile.check()?;
    let listeners = listen(args, config.api_keys.is_empty())?;
    config.hosts = hosts(args, &listeners, config.api_keys.is_empty());
    let load = args.model.load.options();
    let name = &args.model.source.shown();
    let mut model = open(args.model.source.name(), &load)?;
    let generates = !model.model().spec().is_encoder();
    if !generates {
        encoder::check(args)?;
    }
    open_draft(&mut model, &args.draft, &load)?;
    let profile = args.profile.begin(&mut model)?;
    let encodes = match generates && args.pooling.is_none() {
        true => None,
        false => Some(encoder::of(&model, args.pooling)?),
    };
    let positions = match generates {
        true => positions(args, &model, config.memory())?,
        false => 0,
    };
    let mut names = vec![own_name(name)];
    names.extend(args.alias.iter().cloned());
    match (&encodes, generates) {
        (Some((encodes, _)), false) => encoder::tell(&names[0], &listeners[0], &model, encodes),
        _ => tell(args, &names[0], &listeners[0], &model, positions),
    }
    // What decoding reads, up to what no cache holds.
    let weights = model.model().weights().matrices();
    let roof = roof::read_weights(model.model().team(), weights, usize::MAX, ROOF_TIME);
    let fingerprint = fingerprint::of(&model, args.draft.draft.as_deref());
    let fingerprint = fingerprint.map_err(|e| Failure::Other(e.to_string()))?;
    // A request cannot have more than there is.
    let context = match (&encodes, generates) {
        (Some((encodes, _)), false) => encodes.most,
        _ => model.context().min(positions),
    };
    let (model, slots, speculate) = (Arc::new(model), args.slots, args.speculate);
    let served = Served {
        names,
        tokenizer: model.tokenizer().clone(),
        context,
        roof,
        fingerprint,
        engine: generates.then(|| -> MakeEngine {
            Box::new(move || {
                let engine = model.engine(slots, positions, speculate);
                engine.map_err(|e| e.to_string())
            })
        }),
        encodes,
    };
    serve(
        listeners,
        served,
        config,
        &signals.begin_patiently(PATIENCE),
    )?;
    note("Ended: nothing is left to answer");
    profile.map_or(Ok(()), Profile::finish)
}

fn config(args: &ServeArgs) -> Result<Config, Failure> {
    for origin in &args.cors_origin {
        if origin != "*" && !origin.contains("://") {
            return Err(Failure::Usage(format!(
                "--cors-origin {origin}: an origin is a scheme and a host, as https://chat.example.org"
            )));
        }
    }
    Ok(Config {
        api_keys: keys(&args.api_key)?,
        cors_origins: args.cors_origin.clone(),
        share_prefixes: args.share_prefix_cache,
        max_body: usize::try_from(args.max_body).unwrap_or(usize::MAX),
        max_choices: args.max_choices.max(1),
        max_tokens: args.max_tokens,
        slots: args.slots,
        queue: args.queue,
        drain_timeout: Duration::from_secs_f64(args.drain_timeout),
        ..Config::default()
    })
}

/// Keys as they are, and those in files.
fn keys(given: &[String]) -> Result<Vec<String>, Failure> {
    let mut keys = Vec::new();
    for key in given {
        match key.strip_prefix('@') {
            Some(file) => {
                let text = std::fs::read_to_string(file);
                let text = text
                    .map_err(|e| Failure::Other(format!("cannot read the keys in {file}: {e}")))?;
                let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
                let before = keys.len();
                keys.extend(lines.map(str::to_owned));
                if keys.len() == before {
                    return Err(Failure::Usage(format!(
                        "--api-key: there is no key in {file}"
                    )));
                }
            }
            None if key.trim().is_empty() => {
                return Err(Failure::Usage("--api-key: an empty key is none".into()))
            }
            None => keys.push(key.clone()),
        }
    }
    Ok(keys)
}

/// The names by which the server may be called: any, unless browsers could be led to
/// a server that listens to this machine alone and lets everybody in.
fn hosts(args: &ServeArgs, listeners: &[TcpListener], anonymous: bool) -> Option<Vec<String>> {
    let own = |l: &TcpListener| l.local_addr().is_ok_and(|a| a.ip().is_loopback());
    let open = anonymous && listeners.iter().all(own);
    (open || !args.allow_host.is_empty()).then(|| args.allow_host.clone())
}

/// Takes the port, before the model is loaded for nothing. `localhost` is at two
/// addresses, and clients may try either first.
fn listen(args: &ServeArgs, anonymous: bool) -> Result<Vec<TcpListener>, Failure> {
    let at = (args.host.as_str(), args.port);
    let wrong = |e| Failure::Other(format!("cannot listen at {}:{}: {e}", args.host, args.port));
    let addresses: Vec<_> = at.to_socket_addrs().map_err(wrong)?.collect();
    let own = addresses.iter().all(|a| a.ip().is_loopback());
    if anonymous && !own && !args.allow_anonymous {
        return Err(Failure::Usage(format!(
            "--host {} lets others in: say who by --api-key, or everybody by --allow-anonymous",
            args.host
        )));
    }
    let first = TcpListener::bind(&addresses[..]).map_err(wrong)?;
    let mut listeners = vec![first];
    if args.host.eq_ignore_ascii_case("localhost") {
        let at = listeners[0].local_addr().map_err(wrong)?;
        let other: IpAddr = match at.ip() {
            IpAddr::V4(_) => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv4Addr::LOCALHOST.into(),
        };
        match TcpListener::bind((other, at.port())) {
            Ok(second) => listeners.push(second),
            Err(e) => note(format_args!("localhost is {} alone: {other}: {e}", at.ip())),
        }
    }
    Ok(listeners)
}

/// Of a path the last part, without the ending; of the hub's names, all.
fn own_name(name: &str) -> String {
    let path = Path::new(name);
    let file = path.canonicalize().ok();
    let last = file.as_deref().and_then(|f| match f.is_file() {
        true => f.file_stem(),
        false => f.file_name(),
    });
    last.map_or(name.into(), |last| last.to_string_lossy().into_owned())
}

/// Bytes of so many blocks of the caches, the draft model's included.
fn cache_bytes(model: &Model, blocks: usize) -> usize {
    let draft = model.draft().map(|d| d.spec());
    let specs = [model.model().spec()].into_iter().chain(draft);
    let block: usize = specs.map(|s| KvPool::block_bytes(s, model.kv_type())).sum();
    blocks * block
}

/// Positions of the cache. What requests take at most stays free beside it.
fn positions(args: &ServeArgs, model: &Model, requests: usize) -> Result<usize, Failure> {
    let block = cache_bytes(model, 1).max(1);
    let useful = model
        .context()
        .div_ceil(KV_BLOCK)
        .saturating_mul(args.slots);
    let states = model.state_bytes(args.slots) as u64;
    let free = rustml_nlp::available_memory().map(|free| free.saturating_sub(states));
    let blocks = match (args.kv_memory, free) {
        (Some(bytes), _) => (bytes / block as u64) as usize,
        (None, Some(free)) => {
            let share = (free as f64 * SHARE) as u64;
            let beside = free.saturating_sub(requests as u64).max(free / 8);
            (share.min(beside) / block as u64) as usize
        }
        (None, None) => model.context().div_ceil(KV_BLOCK),
    };
    if !args.model.load.force {
        check_cache(
            (blocks.min(useful) as u64).saturating_mul(block as u64),
            free,
        )?;
    }
    match blocks.min(useful) {
        0 => Err(Failure::Usage(format!(
            "--kv-memory: {KV_BLOCK} tokens, the least there can be, take {} KiB",
            block.div_ceil(1024)
        ))),
        blocks => Ok(blocks * KV_BLOCK),
    }
}

/// Refuses a cache that is larger than what is free. Its pages come when they are written, and
/// the system would end the server then.
fn check_cache(wanted: u64, free: Option<u64>) -> Result<(), Failure> {
    match free.filter(|&free| wanted > free) {
        None => Ok(()),
        Some(free) => Err(Failure::Other(format!(
            "--kv-memory: the cache takes {} MiB, but only {} MiB can be had; give it less, or \
             --force",
            wanted.div_ceil(1 << 20),
            free >> 20
        ))),
    }
}

fn tell(args: &ServeArgs, name: &str, listener: &TcpListener, model: &Model, positions: usize) {
    let at = listener
        .local_addr()
        .map_or(String::new(), |a| a.to_string());
    let cache = cache_bytes(model, positions / KV_BLOCK);
    note(format_args!(
        "{name} at http://{at}: a page to chat with, and OpenAI's API at http://{at}/v1"
    ));
    note(format_args!(
        "{} tokens of context, {} slots, {} more may wait; {} MiB of weights, {} MiB of cache for {positions} tokens, {} threads",
        model.context().min(positions),
        args.slots,
        args.queue,
        model.model().report().bytes >> 20,
        cache >> 20,
        model.threads(),
    ));
    if model.model().spec().has_state() {
        note(format_args!(
            "{} KiB of recurrent state for each text, {} MiB in all at most",
            KvPool::state_bytes(model.model().spec()).div_ceil(1024),
            model.state_bytes(args.slots) >> 20,
        ));
    }
    if let (Some(draft), Some(name)) = (model.draft(), &args.draft.draft) {
        let cache = positions / KV_BLOCK * KvPool::block_bytes(draft.spec(), model.kv_type());
        note(format_args!(
            "{} guesses tokens ahead: {} MiB of weights beside these, {} MiB of that cache",
            own_name(&name.to_string_lossy()),
            draft.report().bytes >> 20,
            cache >> 20,
        ));
    }
}

fn parse_slots(s: &str) -> Result<usize, String> {
    match s.parse() {
        Ok(n @ 1..=1024) => Ok(n),
        Ok(_) => Err("it must be from 1 to 1024".into()),
        Err(e) => Err(format!("{e}")),
    }
}

fn parse_seconds(s: &str) -> Result<f64, String> {
    match s.parse() {
        Ok(n) if (0.0..=86_400.0).contains(&n) => Ok(n),
        _ => Err("it must be a number of seconds, a day at most".into()),
    }
}

/// Bytes, as 1048576, 1024K, 1M or 1.5G.
fn parse_size(s: &str) -> Result<u64, String> {
    let s = s.trim_end_matches(['B', 'b']).trim_end_matches('i');
    let (number, shift) = match s.char_indices().last() {
        Some((i, 'K' | 'k')) => (&s[..i], 10),
        Some((i, 'M' | 'm')) => (&s[..i], 20),
        Some((i, 'G' | 'g')) => (&s[..i], 30),
        Some((i, 'T' | 't')) => (&s[..i], 40),
        _ => (s, 0),
    };
    match number.trim().parse::<f64>() {
        Ok(n) if n > 0.0 && n < 1e9 || n > 0.0 && shift == 0 && n < 1e18 => {
            Ok((n * (1u64 << shift) as f64) as u64)
        }
        _ => Err("it must be a size such as 512M or 4G".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_does_not_fit_is_refused_with_its_numbers() {
        let says = |wanted, free| match check_cache(wanted, free) {
            Err(Failure::Other(text)) => Some(text),
            Err(_) => panic!("another kind of failure"),
            Ok(()) => None,
        };
        assert_eq!(says(3 << 30, Some(3 << 30)), None);
        assert_eq!(says(u64::MAX, None), None, "nothing is known");
        let text = says((3 << 30) + 1, Some(1 << 30)).unwrap();
        assert!(text.contains("takes 3073 MiB, but only 1024 MiB"), "{text}");
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("4M", 4 << 20),
            ("1.5GiB", 3 << 29),
            ("100", 100),
            ("2kb", 2048),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1M", "0", "1X", "nan", "infG", "1e40"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_come_from_files_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        std::fs::write(&file, "one\n\n  two \n").unwrap();
        let given = ["zero".to_owned(), format!("@{}", file.display())];
        assert_eq!(keys(&given).unwrap(), ["zero", "one", "two"]);
        std::fs::write(&file, "\n").unwrap();
        assert!(keys(&given).is_err() && keys(&["@/nowhere".into()]).is_err());
        assert!(keys(&[" ".into()]).is_err());
    }
}
