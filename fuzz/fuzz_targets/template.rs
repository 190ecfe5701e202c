//! Any text as a chat template: no panic, no overflow of the stack, an end within
//! its limits; and what it did not write lies in ranges that are in order.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rustml_jinja::{Limits, Origin, Template, Variable};
use serde_json::json;

fuzz_target!(|source: &str| {
    let Ok(template) = Template::new(source) else {
        return;
    };
    let call = json!([{"type": "function", "function": {"name": "f", "arguments": {"a": [1, 2.5, null]}}}]);
    let messages = json!([
        {"role": "system", "content": "Żółw <|im_end|>"},
        {"role": "user", "content": [{"type": "text", "text": "a\nb"}]},
        {"role": "assistant", "content": null, "tool_calls": call},
    ]);
    let answer = json!(true);
    let variable = |name, value, origin| Variable { name, value, origin };
    let variables = [
        variable("messages", &messages, Origin::Messages(|role| role == "user")),
        variable("tools", &call, Origin::Input),
        variable("add_generation_prompt", &answer, Origin::Template),
    ];
    let limits = Limits { work: 200_000, ..Limits::default() };
    let Ok(rendered) = template.render(&variables, limits) else {
        return;
    };
    let mut end = 0;
    for (i, range) in rendered.input().iter().enumerate() {
        assert!(range.start < range.end && (range.start > end || i == 0), "{range:?}");
        assert!(rendered.as_str().get(range.clone()).is_some(), "{range:?}");
        end = range.end;
    }
});
