//! Where the lines of a conversation come from: an editor on a terminal, or
//! standard input as it is.

use rustml_nlp::cli::{colours, Failure};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, Config, Context, Editor, Helper};
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

/// Lines that a person or a file gives. One that ends with a backslash goes on
/// in the next.
pub enum Input {
    /// Line editing with a history, kept in a file where there can be one.
    Terminal {
        editor: Box<Editor<Lines, FileHistory>>,
        history: Option<PathBuf>,
    },
    /// The lines of standard input.
    Piped { read: usize },
}

impl Input {
    /// An editor if standard input is a terminal. `commands` are completed.
    pub fn new(commands: &'static [&'static str]) -> Result<Input, Failure> {
        if !io::stdin().is_terminal() {
            return Ok(Input::Piped { read: 0 });
        }
        let mut config = Config::builder().auto_add_history(true);
        if !io::stdout().is_terminal() {
            // Standard output holds answers alone.
            config = config.behavior(Behavior::PreferTerm);
        }
        let mut editor = Editor::with_config(config.build()).map_err(cannot_edit)?;
        editor.set_helper(Some(Lines { commands }));
        let history = history_file();
        if let Some(path) = &history {
            // There is none the first time.
            let _ = editor.load_history(path);
        }
        Ok(Input::Terminal {
            editor: Box::new(editor),
            history,
        })
    }

    /// Whether somebody types.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal { .. })
    }

    /// The next line; `None` at the end, or where somebody wants to leave.
    pub fn next(&mut self) -> Result<Option<String>, Failure> {
        match self {
            Input::Terminal { editor, history } => match editor.readline(&("> ", prompt())) {
                Ok(line) => {
                    if let Some(path) = history {
                        if let Err(e) = editor.append_history(path) {
                            tracing::info!(target: "rustml::chat", "no history in {}: {e}", path.display());
                        }
                    }
                    Ok(Some(line.replace("\\\n", "\n")))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted | ReadlineError::Signal(_)) => {
                    Ok(None)
                }
                Err(e) => Err(cannot_edit(e)),
            },
            Input::Piped { read } => {
                let mut text = String::new();
                while let Some(line) = piped_line(read)? {
                    match line.strip_suffix('\\') {
                        Some(line) => text.extend([line, "\n"]),
                        None => {
                            text.push_str(&line);
                            return Ok(Some(text));
                        }
                    }
                }
                Ok((!text.is_empty()).then_some(text))
            }
        }
    }
}

fn prompt() -> &'static str {
    match colours(&io::stderr()) {
        true => "\x1b[1;32m> \x1b[0m",
        false => "> ",
    }
}

fn cannot_edit(e: ReadlineError) -> Failure {
    Failure::Other(format!("cannot read from the terminal: {e}"))
}

fn piped_line(read: &mut usize) -> Result<Option<String>, Failure> {
    let mut line = Vec::new();
    let found = io::stdin().lock().read_until(b'\n', &mut line);
    let found = found.map_err(|e| Failure::Other(format!("cannot read standard input: {e}")))?;
    if found == 0 {
        return Ok(None);
    }
    *read += 1;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    // Some editors begin a text with a byte order mark.
    let mark = "\u{feff}".as_bytes();
    let line = line
        .strip_prefix(mark)
        .filter(|_| *read == 1)
        .unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(line) => Ok(Some(line.to_owned())),
        Err(_) => Err(Failure::Other(format!(
            "line {read} of standard input is not UTF-8; convert it, for instance with iconv"
        ))),
    }
}

/// The file of the XDG Base Directory Specification for state; its directory
/// is made if it is missing.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.filter(|dir| dir.is_absolute());
    let state = state.or_else(|| Some(std::env::home_dir()?.join(".local/state")));
    let dir = state?.join("rustml");
    match std::fs::create_dir_all(&dir) {
        Ok(()) => Some(dir.join("chat-history")),
        Err(e) => {
            tracing::info!(target: "rustml::chat", "no history in {}: {e}", dir.display());
            None
        }
    }
}

/// What the editor knows about lines.
pub struct Lines {
    commands: &'static [&'static str],
}

impl Validator for Lines {
    fn validate(&self, line: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(match line.input().ends_with('\\') {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Completer for Lines {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let begun = &line[..position];
        let fitting = self.commands.iter().filter(|c| c.starts_with(begun));
        match begun.is_empty() {
            true => Ok((0, Vec::new())),
            false => Ok((0, fitting.map(|c| c.to_string()).collect())),
        }
    }
}

impl Hinter for Lines {
    type Hint = String;
}
impl Highlighter for Lines {}
impl Helper for Lines {}
