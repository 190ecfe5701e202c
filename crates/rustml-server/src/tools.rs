//! Functions that a model may call: how it is told of them.
//!
//! Templates that know of tools write them themselves; to other models a system
//! message says what there is and how to call it.

use crate::calls::{CallParser, CLOSE, OPEN};
use crate::types::{ApiError, Tool, ToolChoice, ToolMode};
use rustml_tokenizer::{ChatTemplate, Message};
use serde_json::{json, Map, Value};

/// Letters of a function's name; proxies put theirs before those of others.
const MAX_NAME: usize = 128;

/// Functions of a request.
pub(crate) struct Tools {
    pub tools: Vec<Tool>,
    /// Whether one has to be called.
    pub forced: bool,
    /// Whether several may be called at once.
    pub parallel: bool,
    /// Whether the template writes them.
    native: bool,
    /// Whether calls stand in tags.
    tagged: bool,
    /// What the arguments are called.
    key: &'static str,
}

impl Tools {
    /// The functions that may be called, if any.
    pub fn new(
        tools: Vec<Tool>,
        choice: Option<ToolChoice>,
        parallel: bool,
        template: &ChatTemplate,
    ) -> Result<Option<Tools>, ApiError> {
        check(&tools)?;
        let (mut tools, given) = (tools, choice.is_some());
        let forced = match choice {
            None | Some(ToolChoice::Mode(ToolMode::Auto)) => false,
            Some(ToolChoice::Mode(ToolMode::None)) => return Ok(None),
            Some(ToolChoice::Mode(ToolMode::Required)) => true,
            Some(ToolChoice::Named { kind, function }) => {
                let at = "tool_choice.function.name";
                if kind != "function" {
                    let says = format!("there are tools of type \"function\" alone, not {kind:?}");
                    return Err(ApiError::field("tool_choice.type", says));
                }
                tools.retain(|t| t.function.name == function.name);
                if tools.is_empty() {
                    let says = format!("tools has no function {:?}", function.name);
                    return Err(ApiError::field(at, says));
                }
                true
            }
        };
        if tools.is_empty() {
            return match given && forced {
                true => Err(ApiError::field(
                    "tool_choice",
                    "a call is required, but tools is empty",
                )),
                false => Ok(None),
            };
        }
        let source = template.source();
        let native = source.contains("tools");
        let tagged = !native || source.contains(OPEN);
        Ok(Some(Tools {
            tools,
            forced,
            parallel,
            native,
            tagged,
            key: match native && source.contains("\"parameters\"") && !tagged {
                true => "parameters",
                false => "arguments",
            },
        }))
    }

    /// What the template is given besides messages.
    pub fn extra(&self) -> Value {
        match self.native {
            true => json!({"tools": self.tools}),
            false => Value::Null,
        }
    }

    /// What an answer begins with that has to be a call.
    pub fn beginning(&self) -> &'static str {
        match self.forced && self.tagged {
            true => "<tool_call>\n",
            false => "",
        }
    }

    /// Tells a model whose template does not know of tools.
    pub fn tell(&self, messages: &mut Vec<Message>) {
        if self.native {
            return;
        }
        let list: Vec<_> = self.tools.iter().map(|t| json!(t).to_string()).collect();
        let text = format!(
            "You can call functions. These are there, one a line:\n{}\n\
             To call one, answer with nothing but its name and arguments, in this form:\n\
             {OPEN}\n{{\"name\": NAME, \"arguments\": {{...}}}}\n{CLOSE}",
            list.join("\n")
        );
        match messages.first_mut().filter(|m| m.role == "system") {
            Some(system) => system.content = format!("{}\n\n{text}", system.content).into(),
            None => messages.insert(0, Message::new("system", text)),
        }
    }

    /// What an answer has to be that has to be a call.
    ///
    /// A tool's parameters are a resource of their own (JSON Schema, section
    /// 8.2.1): what they refer to as `#` is their root, so that two tools may
    /// define the same name, and no reference has to be rewritten.
    pub fn schema(&self) -> Value {
        let calls = self.tools.iter().enumerate().map(|(i, t)| self.call(i, t));
        let calls: Vec<_> = calls.collect();
        match <[Value; 1]>::try_from(calls) {
            Ok([call]) => call,
            Err(calls) => json!({ "anyOf": calls }),
        }
    }

    /// The schema of a call of the tool at `index`.
    fn call(&self, index: usize, tool: &Tool) -> Value {
        let parameters = tool.function.parameters.clone();
        let mut parameters = parameters.unwrap_or(json!({"type": "object"}));
        if let Some(object) = parameters.as_object_mut() {
            let id = object.entry("$id").or_insert(Value::Null);
            if !id.is_string() {
                *id = json!(format!("tool:{index}"));
            }
        }
        let mut properties = Map::new();
        properties.insert("name".into(), json!({"const": tool.function.name}));
        properties.insert(self.key.into(), parameters);
        json!({
            "type": "object",
            "properties": properties,
            "required": ["name", self.key],
            "additionalProperties": false,
        })
    }

    /// Reads an answer that may have calls in it; `thinking` if the prompt
    /// ends within thoughts.
    pub fn parser(&self, thinking: bool) -> CallParser {
        let names = self.tools.iter().map(|t| t.function.name.clone());
        CallParser::new(names.collect(), self.parallel, thinking)
    }
}

/// Where in a tool's parameters a place in [`Tools::schema`] is, for a message.
pub(crate) fn place(schema: &Value, at: &str) -> String {
    let one = at.strip_prefix("/anyOf/").and_then(|at| at.split_once('/'));
    let (call, inner) = match one {
        Some((index, inner)) => (
            index.parse().ok().map(|i: usize| &schema["anyOf"][i]),
            inner,
        ),
        None => (Some(schema), at.trim_start_matches('/')),
    };
    let keys = ["properties/arguments", "properties/parameters"];
    let inner = keys.iter().find_map(|key| inner.strip_prefix(key));
    match (call, inner) {
        (Some(call), Some(inner)) => {
            let name = &call["properties"]["name"]["const"];
            let root = if inner.is_empty() { "#" } else { "" };
            format!("parameters of {name}, {root}{inner}")
        }
        _ => at.to_owned(),
    }
}

fn check(tools: &[Tool]) -> Result<(), ApiError> {
    for (i, tool) in tools.iter().enumerate() {
        let field = |name: &str| format!("tools[{i}].{name}");
        let name = &tool.function.name;
        if tool.kind != "function" {
            let says = format!(
                "there are tools of type \"function\" alone, not {:?}",
                tool.kind
            );
            return Err(ApiError::field(field("type"), says));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
            let says =
                format!("{name:?} is no name: letters, digits, _, - and . are, {MAX_NAME} at most");
            return Err(ApiError::field(field("function.name"), says));
        }
        if tool
            .function
            .parameters
            .as_ref()
            .is_some_and(|p| !p.is_object())
        {
            let says = "parameters has to be a JSON schema, which is an object";
            return Err(ApiError::field(field("function.parameters"), says));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_resources_of_their_own() {
        let tool = |name: &str, modes: [&str; 2]| {
            json!({"type": "function", "function": {"name": name, "parameters": {
            "type": "object", "properties": {"mode": {"$ref": "#/$defs/Mode"}}, "$defs": {"Mode": {"enum": modes}}}}})
        };
        let template = ChatTemplate::new("{{ tools }}", None, None).unwrap();
        let choice = ToolChoice::Mode(ToolMode::Required);
        let tools = [tool("f", ["on", "off"]), tool("g", ["red", "blue"])];
        let tools = tools.map(|t| serde_json::from_value(t).unwrap());
        let tools = Tools::new(tools.into(), Some(choice), true, &template);
        let schema = tools.unwrap().unwrap().schema();
        let of = |i: usize| &schema["anyOf"][i]["properties"]["arguments"];
        assert_eq!(of(0)["$defs"]["Mode"]["enum"][0], "on");
        assert_eq!(of(1)["$defs"]["Mode"]["enum"][0], "red");
        assert_ne!(of(0)["$id"], of(1)["$id"]);
        let at = place(&schema, "/anyOf/1/properties/arguments/properties/mode");
        assert_eq!(at, "parameters of \"g\", /properties/mode");
        let at = place(&schema["anyOf"][0], "/properties/arguments");
        assert_eq!(at, "parameters of \"f\", #");
    }
}
