//! `rustml chat`: a conversation.

use crate::input::Input;
use rustml_nlp::cli::{
    colours, complain, examples, note, open, open_draft, print, print_text, DraftArgs, Failure,
    ModelArgs, Profile, ProfileArgs, SamplingArgs, Signals, SystemArgs,
};
use rustml_nlp::{Context, Error, Finish, Generation, Model, Options, Session};
use std::io;
use std::path::Path;

/// More than a conversation usually takes, less than would burden the memory.
const CONTEXT: usize = 8192;

/// Talk with a model
///
/// On a terminal, with line editing and a history; Ctrl-C stops an answer, and
/// leaves at the prompt. From a pipe, each line is a turn. What was said stays
/// in the cache, so that a turn computes only what is new.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |a| a.value_name("MODEL")),
    mut_arg("ctx_size", |a| {
        let help = "Tokens that the conversation may take [default: what the model was made for, \
                    but 8192 at most]";
        a.help(help).long_help(help)
    }),
    mut_arg("max_tokens", |a| {
        a.default_value("2048").help("Tokens of an answer at most")
    }),
    mut_arg("timeout", |a| {
        a.help("Stop an answer after this many seconds")
    }),
    after_help = help(),
)]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    draft: DraftArgs,

    #[command(flatten)]
    system: SystemArgs,

    #[command(flatten)]
    profile: ProfileArgs,

    #[command(flatten)]
    sampling: SamplingArgs,
}

const COMMANDS: &str = concat!(
    "  /help           this list\n",
    "  /clear          begin a new conversation\n",
    "  /system TEXT    begin a new one, in which the model is told TEXT first\n",
    "  /exit           leave, as do Ctrl-D and Ctrl-C at the prompt\n",
    "A line that ends with \\ goes on in the next. A space before a line makes it no command.",
);

const NAMES: &[&str] = &["/help", "/clear", "/system ", "/exit"];

fn help() -> String {
    let examples = examples(&[
        (
            "Talk with the default model",
            "rustml chat --system \"You are brief.\"",
        ),
        (
            "Two turns of one conversation, from a script",
            "printf 'Name a river.\\nWhere is it?\\n' | rustml chat model.gguf --temperature 0",
        ),
    ]);
    format!("\x1b[1m\x1b[4mCommands:\x1b[0m\n{COMMANDS}\n\n{examples}")
}

/// Runs the command.
pub fn run(args: &ChatArgs, signals: &Signals) -> Result<(), Failure> {
    let options = args.sampling.options().map_err(Failure::Usage)?;
    let mut load = args.model.load.options();
    if load.context == Context::Model {
        load.context = Context::AtMost(CONTEXT);
    }
    args.profile.check()?;
    let mut model = open(args.model.source.name(), &load)?;
    if model.tokenizer().chat_template().is_none() {
        return Err(Error::NoTemplate(model.path().to_owned()).into());
    }
    open_draft(&mut model, &args.draft, &load)?;
    let input = Input::new(NAMES)?;
    if input.is_terminal() {
        greet(&args.model.source.shown(), &model);
    }
    let profile = args.profile.begin(&mut model)?;
    let session = model.session(args.system.text.as_deref())?;
    Chat {
        input,
        session,
        options,
        system: args.system.text.clone(),
        signals,
        failed: false,
    }
    .run()?;
    profile.map_or(Ok(()), Profile::finish)
}

fn greet(name: &str, model: &Model) {
    // Of a path, the last part says what it is; of the hub's, all.
    let path = Path::new(name);
    let file = path.file_name().filter(|_| path.exists());
    let name = file.map_or(name.into(), |file| file.to_string_lossy());
    note(format_args!(
        "{name}, {} tokens of context. /help lists commands.",
        model.context()
    ));
}

struct Chat<'m> {
    input: Input,
    session: Session<'m>,
    options: Options,
    system: Option<String>,
    signals: &'m Signals,
    /// Whether something went wrong that a script has to hear of.
    failed: bool,
}

/// What a line asks for.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Nothing,
    Help,
    Clear,
    System(&'a str),
    Exit,
    Unknown(&'a str),
    Say(&'a str),
}

fn parse(line: &str) -> Line<'_> {
    let text = line.trim();
    if text.is_empty() {
        return Line::Nothing;
    }
    if !line.starts_with('/') {
        return Line::Say(text);
    }
    let (command, rest) = text
        .split_once(char::is_whitespace)
        .map_or((text, ""), |(command, rest)| (command, rest.trim()));
    match (command, rest) {
        ("/help" | "/?", "") => Line::Help,
        ("/clear", "") => Line::Clear,
        ("/system", text) => Line::System(text),
        ("/exit" | "/quit" | "/bye", "") => Line::Exit,
        _ => Line::Unknown(command),
    }
}

impl Chat<'_> {
    fn run(mut self) -> Result<(), Failure> {
        while let Some(line) = self.input.next()? {
            match parse(&line) {
                Line::Nothing => {}
                Line::Help => note(COMMANDS),
                Line::Clear => {
                    self.session.clear(self.system.as_deref());
                    self.remark("A new conversation.");
                }
                Line::System("") => match &self.system {
                    Some(text) => note(text),
                    None => self.remark("There is no system message."),
                },
                Line::System(text) => {
                    self.system = Some(text.to_owned());
                    self.session.clear(self.system.as_deref());
                    self.remark("A new conversation, with this system message.");
                }
                Line::Exit => break,
                Line::Unknown(command) => self.complain(&format!(
                    "there is no command {command}; /help lists them, and a space before the line makes it no command"
                )),
                Line::Say(text) => self.say(text)?,
            }
        }
        match self.failed && !self.input.is_terminal() {
            true => Err(Failure::Other(
                "not every turn was answered; the reasons are above".into(),
            )),
            false => Ok(()),
        }
    }

    fn complain(&mut self, what: &str) {
        self.failed = true;
        complain(what);
    }

    /// Says something that only a person wants to know.
    fn remark(&self, what: &str) {
        if self.input.is_terminal() {
            note(what);
        }
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.options.cancel = Some(self.signals.begin());
        let mut printed = Ok(());
        let answer = self.session.say(text, &self.options, &mut |piece| {
            printed = print_text(piece);
            printed.is_ok()
        });
        // Another turn, other dice.
        self.options.sampling.seed = self.options.sampling.seed.wrapping_add(1);
        let signal = self.signals.end();
        printed?;
        match answer {
            Ok(answer) => {
                tracing::debug!(
                    target: "rustml::chat",
                    "{} of the prompt's {} tokens were computed",
                    answer.timings.computed_tokens(),
                    answer.prompt_tokens
                );
                if !answer.text.ends_with('\n') {
                    print("\n")?;
                }
                tell(&answer);
            }
            Err(Error::ConversationTooLong { tokens, context }) => self.complain(&format!(
                "the conversation would be {tokens} tokens long, but the context holds {context}; /clear begins a new one, and --ctx-size makes room for more"
            )),
            Err(e) => self.complain(&e.to_string()),
        }
        match signal {
            // It was meant for the answer.
            Err(Failure::Signal(Signals::INTERRUPT)) if self.input.is_terminal() => Ok(()),
            other => other,
        }
    }
}

/// The speed, and why the answer ended if the model did not end it.
fn tell(answer: &Generation) {
    let mut line = format!("{} tokens", answer.ids.len());
    let seconds = answer.timings.decode.as_secs_f64();
    if answer.timings.decode_tokens() > 0 && seconds > 0.0 {
        let speed = answer.timings.decode_tokens() as f64 / seconds;
        line += &format!(", {speed:.1} tokens/s");
    }
    line += match &answer.finish {
        Finish::Stop | Finish::StopString(_) => "",
        Finish::Length => "; cut off by --max-tokens",
        Finish::Context => "; the context is full: /clear begins a new conversation",
        Finish::Timeout => "; stopped by --timeout",
        Finish::Cancelled => "; stopped",
        Finish::Failed(_) | Finish::NotFinite(_) => "; it failed: ",
    };
    if let Finish::Failed(why) | Finish::NotFinite(why) = &answer.finish {
        line += why;
    }
    match colours(&io::stderr()) {
        true => note(format_args!("\x1b[2m[{line}]\x1b[0m")),
        false => note(format_args!("[{line}]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_said() {
        for (line, meant) in [
            ("", Line::Nothing),
            (" \t", Line::Nothing),
            ("Hello ", Line::Say("Hello")),
            (" /help", Line::Say("/help")),
            ("/help", Line::Help),
            ("/clear ", Line::Clear),
            ("/system  Be brief. ", Line::System("Be brief.")),
            ("/system", Line::System("")),
            ("/system\nBe\nbrief.", Line::System("Be\nbrief.")),
            ("/systematic", Line::Unknown("/systematic")),
            ("/exit", Line::Exit),
            ("/exit now", Line::Unknown("/exit")),
            ("/etc/passwd is what?", Line::Unknown("/etc/passwd")),
        ] {
            assert_eq!(parse(line), meant, "{line:?}");
        }
    }
}
