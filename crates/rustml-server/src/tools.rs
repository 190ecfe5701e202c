//! Functions that a model may call: how it is told of them.
//!
//! Templates that know of tools write them themselves; to other models a system
//! message says what there is and how to call it.

use crate::calls::{CallParser, CLOSE, OPEN};
use crate::types::{ApiError, Tool, ToolChoice, ToolMode};
use rustml_tokenizer::{ChatTemplate, Message};
use serde_json::{json, Map, Value};

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
            Some(system) => system.content = format!("{}\n\n{text}", system.content),
            None => messages.insert(0, Message::new("system", text)),
        }
    }

    /// What an answer has to be that has to be a call.
    pub fn schema(&self) -> Value {
        let mut shared = Map::new();
        let calls: Vec<_> = self
            .tools
            .iter()
            .map(|t| self.call(t, &mut shared))
            .collect();
        let mut schema = match <[Value; 1]>::try_from(calls) {
            Ok([call]) => call,
            Err(calls) => json!({ "anyOf": calls }),
        };
        if let Some(schema) = schema.as_object_mut() {
            schema.extend(shared);
        }
        schema
    }

    /// The schema of a call. What its parameters define for themselves, and
    /// refer to from the root, moves to the root.
    fn call(&self, tool: &Tool, shared: &mut Map<String, Value>) -> Value {
        let mut parameters = tool
            .function
            .parameters
            .clone()
            .unwrap_or(json!({"type": "object"}));
        if let Some(object) = parameters.as_object_mut() {
            for key in ["$defs", "definitions"] {
                if let Some(Value::Object(defined)) = object.remove(key) {
                    let all = shared.entry(key).or_insert_with(|| json!({}));
                    all.as_object_mut()
                        .into_iter()
                        .for_each(|all| all.extend(defined.clone()));
                }
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

    /// Reads an answer that may have calls in it.
    pub fn parser(&self) -> CallParser {
        let names = self.tools.iter().map(|t| t.function.name.clone());
        CallParser::new(names.collect(), self.parallel)
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
        if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            let says = format!("{name:?} is no name: letters, digits, _, - and . are, 64 at most");
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
    fn schemas_of_calls_keep_their_references() {
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": {
            "type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": {"type": "integer"}}}}});
        let template = ChatTemplate::new("{{ tools }}", None, None).unwrap();
        let choice = ToolChoice::Mode(ToolMode::Required);
        let tools = vec![serde_json::from_value(tool).unwrap()];
        let tools = Tools::new(tools, Some(choice), true, &template)
            .unwrap()
            .unwrap();
        let schema = tools.schema();
        assert_eq!(schema["$defs"]["X"]["type"], "integer");
        assert_eq!(schema["properties"]["name"]["const"], "f");
        assert!(schema["properties"]["arguments"]["$defs"].is_null());
    }
}
