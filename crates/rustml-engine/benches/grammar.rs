//! What a JSON schema of real size costs: compiling it, and at every token the
//! mask and the step behind it.
//!
//!     cargo bench -p rustml-engine --bench grammar -- models/a.gguf models/b.gguf
//!
//! A valid document is gone through token by token, with a constraint that is
//! compiled anew each time, as every request does. `rustml bench` tells what a
//! step takes that this is to be held against.

use rustml_engine::grammar::Grammars;
use rustml_engine::TokenMask;
use rustml_io::Store;
use rustml_tokenizer::{Encode, Tokenizer};
use serde_json::{json, Value};
use std::path::Path;
use std::time::{Duration, Instant};

const ROUNDS: usize = 20;

fn main() {
    let models: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    if models.is_empty() {
        println!("name GGUF files after --, whose vocabularies are to be used");
    }
    for model in models {
        let store = Store::open(Path::new(&model)).expect("a model");
        let tokenizer = Tokenizer::from_gguf(store.metadata()).expect("a tokenizer");
        measure(&model, &tokenizer);
    }
}

fn measure(model: &str, tokenizer: &Tokenizer) {
    let (schema, document) = (schema(), document());
    let options = Encode {
        add_special: false,
        parse_special: false,
    };
    let began = Instant::now();
    let grammars = Grammars::new(tokenizer).expect("grammars");
    let vocabulary = began.elapsed();
    let text = document.to_string();
    let ids = tokenizer.encode(&text, options).expect("tokens");
    let (mut compile, mut masks, mut accepts) = (Vec::new(), Vec::new(), Vec::new());
    let mut worst = (Duration::ZERO, 0);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let grammar = grammars.json_schema(&schema).expect("a grammar");
        let mut constraint = grammar.constraint();
        compile.push(began.elapsed());
        for (i, &id) in ids.iter().enumerate() {
            let mut mask = TokenMask::all(tokenizer.vocab_size());
            let began = Instant::now();
            constraint.mask(&mut mask).expect("a mask");
            let took = began.elapsed();
            masks.push(took);
            worst = worst.max((took, i));
            assert!(mask.contains(id), "token {i} of {text}");
            let began = Instant::now();
            constraint.accept(id).expect("it goes on");
            accepts.push(began.elapsed());
        }
    }
    let bytes = schema.to_string().len();
    println!(
        "{model}: {} tokens, schema of {bytes} bytes, document of {}",
        tokenizer.vocab_size(),
        ids.len()
    );
    println!(
        "  vocabulary arranged in {:.1} ms",
        vocabulary.as_secs_f64() * 1e3
    );
    for (what, all) in [
        ("compile", &mut compile),
        ("mask", &mut masks),
        ("accept", &mut accepts),
    ] {
        all.sort();
        let us = |d: Duration| d.as_secs_f64() * 1e6;
        let mean = all.iter().sum::<Duration>() / all.len() as u32;
        let p99 = all[all.len() * 99 / 100];
        let last = all[all.len() - 1];
        println!(
            "  {what}: mean {:.1} us, p99 {:.1}, worst {:.1}",
            us(mean),
            us(p99),
            us(last)
        );
    }
    let at = worst.1;
    let before = tokenizer.decode(&ids[at.saturating_sub(6)..at]);
    println!("  the worst mask was that behind {before:?}, token {at}");
}

/// An order, as shops have them.
fn schema() -> Value {
    let address = json!({
        "type": "object",
        "properties": {
            "street": {"type": "string", "minLength": 1, "maxLength": 80},
            "city": {"type": "string", "minLength": 1, "maxLength": 60},
            "postcode": {"type": "string", "pattern": "^[0-9]{5}$"},
            "country": {"enum": ["AT", "BE", "CH", "DE", "DK", "ES", "FI", "FR", "GB", "IT", "NL", "NO", "PL", "PT", "SE"]}
        },
        "required": ["street", "city", "postcode", "country"],
        "additionalProperties": false
    });
    let item = json!({
        "type": "object",
        "properties": {
            "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
            "title": {"type": "string", "maxLength": 120},
            "quantity": {"type": "integer", "minimum": 1, "maximum": 999},
            "price": {"type": "number", "minimum": 0},
            "options": {"type": "array", "maxItems": 8, "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "value": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}, {"type": "null"}]}},
                "required": ["name", "value"],
                "additionalProperties": false
            }},
            "discount": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"percent": {"type": "integer", "minimum": 0, "maximum": 100}, "reason": {"type": "string"}}, "required": ["percent"], "additionalProperties": false}]}
        },
        "required": ["sku", "title", "quantity", "price", "options", "discount"],
        "additionalProperties": false
    });
    json!({
        "type": "object",
        "$defs": {"address": address, "item": item},
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "created": {"type": "string", "format": "date-time"},
            "status": {"enum": ["new", "paid", "packed", "shipped", "delivered", "returned", "cancelled"]},
            "customer": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 1, "maxLength": 100},
                    "email": {"type": "string", "format": "email"},
                    "billing": {"$ref": "#/$defs/address"},
                    "shipping": {"$ref": "#/$defs/address"}
                },
                "required": ["name", "email", "billing", "shipping"],
                "additionalProperties": false
            },
            "items": {"type": "array", "minItems": 1, "maxItems": 50, "items": {"$ref": "#/$defs/item"}},
            "notes": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}}
        },
        "required": ["id", "created", "status", "customer", "items", "notes", "labels"],
        "additionalProperties": false
    })
}

/// Valid by it, with its fields in the same order.
fn document() -> Value {
    let address = json!({"street": "Rue de la Paix 12", "city": "Paris", "postcode": "75002", "country": "FR"});
    let item = |sku: &str, title: &str, price: f64| {
        json!({"sku": sku, "title": title, "quantity": 2, "price": price,
            "options": [{"name": "colour", "value": "sea green"}, {"name": "size", "value": 42}, {"name": "gift", "value": true}],
            "discount": {"percent": 15, "reason": "A loyal customer, since 2019"}})
    };
    json!({
        "id": "6f1c2b9a-0f7e-4c11-9a55-2b7d0a1f3c44",
        "created": "2026-03-14T09:26:53Z",
        "status": "packed",
        "customer": {"name": "Amélie Poulain", "email": "amelie@example.org", "billing": address, "shipping": address},
        "items": [item("LMP-0042", "A lamp in the shape of a pig, with a shade of woven straw", 79.9), item("GNM-1001", "Garden gnome \"Traveller\", hand-painted", 24.5)],
        "notes": "Please ring twice: the bell is slow. Leave it with the neighbour on the second floor if nobody answers the door.",
        "labels": {"channel": "web", "campaign": "spring", "priority": "normal"}
    })
}
