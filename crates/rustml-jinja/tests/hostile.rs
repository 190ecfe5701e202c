//! Templates that want the process: each is answered in a sentence, in time
//! and memory that are measured.

use rustml_jinja::{Fault, Limits, Origin, Template, Variable};
use serde_json::{json, Value};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Counts what is allocated, and the most that ever was.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system's allocator; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(now, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time, so that memory is one template's.
static ALONE: Mutex<()> = Mutex::new(());

const MEMORY: usize = 256 << 20;
/// A second, and as much again as a busy machine may take for what is in hand.
const TIME: Duration = Duration::from_secs(10);

/// Parses and renders; what came out, within the limits.
fn run(source: &str) -> Result<String, Fault> {
    run_within(source, Limits::default())
}

fn run_within(source: &str, limits: Limits) -> Result<String, Fault> {
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    let start = Instant::now();
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let variables = [Variable {
        name: "messages",
        value: &messages,
        origin: Origin::Input,
    }];
    let result = Template::new(source).and_then(|template| template.render(&variables, limits));
    let took = start.elapsed();
    let most = MOST.load(Relaxed) - before;
    let shown: String = source.chars().take(100).collect();
    assert!(took < TIME, "{took:?}: {shown}");
    assert!(most < MEMORY, "{most} bytes: {shown}");
    let result = result.map(|rendered| rendered.as_str().to_owned());
    let left = NOW.load(Relaxed).saturating_sub(before);
    assert!(left < 1 << 20, "{left} bytes are never given back: {shown}");
    result
}

fn refused(source: &str) -> String {
    let fault = match run(source) {
        Ok(text) => panic!("{} bytes: {}", text.len(), &source[..source.len().min(200)]),
        Err(fault) => fault.to_string(),
    };
    assert!(fault.len() < 600 && !fault.contains('\n'), "{fault}");
    fault
}

/// A million `x` in a dozen steps.
const MILLION: &str = "{% set a = 'x' * 1000000 %}";

#[test]
fn long_and_deep_sources_are_refused_before_they_are_walked() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let n = 40_000;
    let chains = [
        format!("{{{{ {}1 }}}}", "1+".repeat(n)),
        format!("{{{{ {}1 }}}}", "1-".repeat(n)),
        format!("{{{{ {}1 }}}}", "1*".repeat(n)),
        format!("{{{{ {}1 }}}}", "1**".repeat(n)),
        format!("{{{{ {}1 }}}}", "1~".repeat(n)),
        format!("{{{{ {}1 }}}}", "1 and ".repeat(n)),
        format!("{{{{ {}1 }}}}", "1 or ".repeat(n)),
        format!("{{{{ {}1 }}}}", "1<".repeat(n)),
        format!("{{{{ {}1 }}}}", "1 in ".repeat(n)),
        format!("{{{{ {}1 }}}}", "not ".repeat(n)),
        format!("{{{{ {}1 }}}}", "-".repeat(n)),
        format!("{{{{ {}1 }}}}", "+".repeat(n)),
        format!("{{{{ 1{} }}}}", "|string".repeat(n)),
        format!("{{{{ 1{} }}}}", " is odd".repeat(n)),
        format!("{{{{ a{} }}}}", "[0]".repeat(n)),
        format!("{{{{ a{} }}}}", "[0:]".repeat(n)),
        format!("{{{{ a{} }}}}", ".b".repeat(n)),
        format!("{{{{ a{} }}}}", "()".repeat(n)),
        format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n)),
        format!("{{{{ {}1{} }}}}", "[".repeat(n), "]".repeat(n)),
        format!("{{{{ {}1{} }}}}", "{1:".repeat(n), "}".repeat(n)),
        format!("{{{{ {}1{} }}}}", "a(".repeat(n), ")".repeat(n)),
        format!("{{{{ {}1{} }}}}", "a[".repeat(n), "]".repeat(n)),
        format!("{{{{ {}1{} }}}}", "1|d(".repeat(n), ")".repeat(n)),
        format!("{{{{ {}1 }}}}", "1 if 1 else ".repeat(n)),
        format!("{{{{ {}1 }}}}", "1 if ".repeat(n)),
        "((".repeat(n),
        format!("{{{{ {} }}}}", "((".repeat(n)),
        "{% if 0 %}".repeat(n),
        "{% for a in b %}".repeat(n),
        "{% with %}".repeat(n),
        "{% set a %}".repeat(n),
        "{% macro a() %}".repeat(n),
        "{% call a() %}".repeat(n),
        "{% filter d %}".repeat(n),
        "{% generation %}".repeat(n),
        "{% block a %}".repeat(n),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(n)),
        format!("{{% set {}a{} = 1 %}}", "(".repeat(n), ")".repeat(n)),
        format!(
            "{{% for {}a{} in b %}}{{% endfor %}}",
            "(".repeat(n),
            ")".repeat(n)
        ),
        format!("{}{}", "{% if 1 %}".repeat(n), "{% endif %}".repeat(n)),
        "{".repeat(n),
        "{{".repeat(n),
        "{%".repeat(n),
        "{#".repeat(n),
        "{% raw %}".repeat(n),
    ];
    for source in &chains {
        match run(source) {
            // What is no tag, or a comment, is text.
            Ok(text) => assert_eq!(&text, source),
            Err(fault) => assert!(fault.to_string().starts_with("failed"), "{fault}"),
        }
    }
    refused(&" ".repeat(2 << 20));
}

#[test]
fn deep_values_and_values_that_hold_themselves_are_bounded() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let deep = "{% set ns=namespace(x=[1]) %}{% for i in range(100000) %}{% set ns.x=WRAP %}{% endfor %}USE";
    for wrap in [
        "[ns.x]",
        "{1: ns.x}",
        "(ns.x,)",
        "dict(a=ns.x)",
        "[ns.x]|list",
        "ns.x|batch(1)|list",
    ] {
        for used in [
            "{{ ns.x }}",
            "{{ ns.x|tojson }}",
            "{{ ns.x == ns.x }}",
            "{{ ns.x < ns.x }}",
            "{{ ns.x in [ns.x] }}",
            "",
        ] {
            let source = deep.replace("WRAP", wrap).replace("USE", used);
            assert!(refused(&source).contains("deeply"));
        }
    }
    // A chain of bound methods, of macros that know the one before, of cyclers.
    for wrap in ["'a'.strip", "[ns.x.strip]"] {
        let source = deep.replace("WRAP", wrap).replace("USE", "");
        run(&source).ok();
    }
    let macros = "{% set ns=namespace(m=1) %}{% for i in range(100000) %}{% set before=ns.m %}\
                  {% macro m() %}{{ before }}{% endmacro %}{% set ns.m=m %}{% endfor %}";
    assert!(refused(macros).contains("deeply"));
    let cyclers = "{% set ns=namespace(m=1) %}{% for i in range(100000) %}{% set ns.m=cycler(ns.m) %}{% endfor %}";
    refused(cyclers);
    for itself in ["ns", "[ns]", "{'a': ns}", "(ns, [ns])", "namespace(a=ns)"] {
        for used in [
            "{{ ns }}",
            "{{ ns.x }}",
            "{{ ns == ns }}",
            "{{ ns.x == ns.x }}",
            "{{ [ns.x] in [ns.x] }}",
            "{{ ns|list }}",
            "{{ ns.x|tojson }}",
            "{{ {ns: 1} }}",
            "{{ ns|string|length }}",
        ] {
            run(&format!(
                "{{% set ns=namespace() %}}{{% set ns.x={itself} %}}{used}"
            ))
            .ok();
        }
    }
    for used in [
        "{{ ns }}",
        "{{ [ns] }}",
        "{{ ns ~ 1 }}",
        "{{ ns|string }}",
        "{{ ns|tojson }}",
    ] {
        refused(&format!(
            "{{% set ns=namespace() %}}{{% set ns.x=ns %}}{used}"
        ));
    }
    // A loop that is told of itself must not keep itself.
    let big = "{% set a='x'*3000000 %}{% for i in range(2) %}{% if loop.changed(loop, a) %}{% endif %}{% endfor %}";
    assert_eq!(run(big).unwrap(), "");
    let after = "{% set ns=namespace() %}{% for i in [1] %}{% set ns.l=loop %}{% endfor %}{{ ns.l.changed(ns.l) }}";
    refused(after);
}

#[test]
fn endless_calls_end() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    for source in [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(x) %}{{ [[[[m(x)]]]] }}{% endmacro %}{{ m(1) }}",
        "{% macro m(x=m()) %}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% for i in [1] if m() %}{% endfor %}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% filter upper %}{{ m() }}{% endfilter %}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% set x %}{{ m() }}{% endset %}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% with x=m() %}{% endwith %}{% endmacro %}{{ m() }}",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
        "{% macro m(f) %}{{ f(f) }}{% endmacro %}{{ m(m) }}",
        "{{ 1|map('map', 'map', 'map') }}{{ ['a']|map('map', 'map', 'map', 'map')|list }}{{ raise_exception('') }}",
    ] {
        refused(source);
    }
    // The deepest that a template may nest, within the deepest calls.
    let nested = format!("{}m(){}", "[".repeat(40), "]".repeat(40));
    refused(&format!(
        "{{% macro m() %}}{{{{ {nested} }}}}{{% endmacro %}}{{{{ m() }}}}"
    ));
    let blocks = format!(
        "{}{{{{ m() }}}}{}",
        "{% if 1 %}".repeat(90),
        "{% endif %}".repeat(90)
    );
    refused(&format!(
        "{{% macro m() %}}{blocks}{{% endmacro %}}{{{{ m() }}}}"
    ));
}

#[test]
fn what_multiplies_is_paid_for_first() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    for expression in [
        "a.replace('x', a)",
        "a|replace('x', a)",
        "a.replace('', a)",
        "'x'.replace('x', a * 9999)",
        "a * 1000000",
        "1000000 * a",
        "a * 9223372036854775807",
        "[1] * 9223372036854775807",
        "[a] * 100000000",
        "'{:>1000000000}'.format(1)",
        "'{:>99999}'.format(1) * 100000",
        "'{:{}}'.format(1, 1)",
        "'%1000000000d' % 1",
        "'%99999s' % 1 * 100000",
        "'%.1000000000f' % 1.5",
        "('%s' * 100000) % ((a,) * 100000)",
        "('{0}' * 100000).format(a)",
        "a.join(a)",
        "a|join(a)",
        "a|list|join(a)",
        "a.ljust(9999999999)",
        "a.rjust(9999999999, 'é')",
        "a.center(9999999999)",
        "'1'.zfill(9999999999)",
        "a|center(9999999999)",
        "a|indent(9999999999)",
        "('\\n' * 1000000)|indent(1000000, true, true)",
        "('\\n' * 1000000)|indent(a, true, true)",
        "('\\t' * 1000000).expandtabs(1000000)",
        "[1]|batch(9999999999, 0)|list",
        "[1]|slice(9999999999, 0)|list",
        "range(9999999999)",
        "range(0, 9223372036854775807)|list",
        "range(100000)|map('replace', 'a', a)|list|length * a",
        "[1, 2]|tojson(indent=9999999999)",
        "([1] * 100000)|tojson(separators=(a, a))",
        "([1] * 100000)|map('string')|join(a)",
        "[a]*1000|tojson(ensure_ascii=true)|length * 'x' * 999999999",
        "strftime_now('%Y' * 9999999)",
        "2 ** 9999999999",
        "9223372036854775807 + 1",
        "9223372036854775807 * 9223372036854775807",
        "-9223372036854775807 - 2",
        "(-9223372036854775807 - 1) // -1",
        "a|urlencode * 999",
        "(a * 30)|escape|escape|escape|length * a * 999",
        "(a * 30).split('x')|length * a * 999",
        "(a * 30)|list|length * a * 999",
        "'aa'|wordcount / 0",
        "5 % 0",
        "5 // 0",
        "''|unknown_filter",
    ] {
        refused(&format!("{MILLION}{{{{ {expression} }}}}"));
    }
    for statement in [
        "{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% for i in range(64) %}{% set ns.s = ns.s * 2 %}{% endfor %}",
        "{% for i in range(64) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson }}",
        "{% for i in range(64) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% for i in range(64) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{% set ns.t = ns.s %}{{ ns.s == ns.t }}",
        "{% for i in range(64) %}{% set ns.s = (ns.s|list) + (ns.s|list) %}{% endfor %}",
        "{% for i in range(64) %}{% set ns.s = ns.s|replace('x', 'xx') %}{% endfor %}",
        "{% for i in range(64) %}{% set ns.s = ns.s.join(['x', 'x', 'x']) %}{% endfor %}",
        "{% for i in range(64) %}{% set ns.s = '%s%s' % (ns.s, ns.s) %}{% endfor %}",
        "{% for i in range(64) %}{% set ns.s = '{0}{0}'.format(ns.s) %}{% endfor %}",
        "{% for i in range(64) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
        "{% for i in range(64) %}{% set ns.s = ns.s|tojson|tojson %}{% endfor %}",
        "{% for i in range(64) %}{% set ns.s = ns.s|e|e %}{% set ns.s = '&' ~ ns.s ~ ns.s %}{% endfor %}",
        "{% for i in range(64) %}{% set ns.s = ns.s|indent(1000, true) %}{% set ns.s = ns.s ~ '\\n' ~ ns.s %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'x' * 999 }}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% set n = namespace(a=1, b=2) %}{% for j in range(99) %}{% set n = namespace(n) %}{% endfor %}{% endfor %}",
    ] {
        refused(&format!("{{% set ns = namespace(s='xxxxxxxx') %}}{statement}"));
    }
}

#[test]
fn looking_at_long_values_is_work() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let set = "{% set a='a'*3000000 %}{% set b='a'*3000000 %}{% set l=[1]*300000 %}{% set m=[1]*300000 %}\
               {% set d=dict(('%s' % i, i) for i in []) if false else {} %}";
    let set = set.replace(
        "{% set d=dict(('%s' % i, i) for i in []) if false else {} %}",
        "",
    );
    for expression in [
        "b==a",
        "b!=a",
        "b<a",
        "b>=a",
        "a in b",
        "'b' in b",
        "{a: 1}",
        "{}[a]",
        "{}.get(a)",
        "a in {}",
        "l==m",
        "l<m",
        "2 in l",
        "l in [m]",
        "{a: 1} == {b: 1}",
        "a|length",
        "a[2999999]",
        "a[-1]",
        "a[2999998:]",
        "a[::1000000]",
        "l[299998::2]",
        "l|sum",
        "l|max",
        "l|sort",
        "l|unique|list",
        "l|select('odd')|list",
        "l|map('string')|list",
        "l|reject|list",
        "l|first == l|last and l.count(2)",
        "l.index(2) if false else l.count(1)",
        "a.count('b')",
        "a.find('b')",
        "a.rfind('b')",
        "a.startswith(b)",
        "a.endswith(b)",
        "a.strip('a')",
        "a.strip(b)",
        "a.split('b')",
        "a.rsplit('b')",
        "a.split()",
        "a.splitlines()",
        "a.partition('b')",
        "a.upper()",
        "a|title",
        "a.isalpha()",
        "a.islower()",
        "a is lower",
        "a.removeprefix(b)",
        "a.replace('b', '')",
        "a|trim",
        "a|wordcount",
        "a|int",
        "a|float",
        "a is eq b",
        "a is in b",
        "[a]|selectattr(b)|list",
        "[a]|groupby(b)|list",
        "a|default(1)|length",
        "a is sameas b",
        "l is sameas m",
        "a.title()",
        "a|lower",
        "a.center(5)",
        "a|truncate(3)",
        "a|indent",
        "a|e|length",
        "a|tojson|length",
        "l|tojson|length",
        "l|string|length",
        "l|join|length",
        "a|reverse|length",
        "l|reverse|list|length",
        "l|batch(2)|list|length",
        "l|list == m|list",
        "a ~ b",
        "a + b",
        "a % ()",
        "a.format()",
        "l + m",
        "l * 2",
        "[a]|unique|list",
        "a.expandtabs()",
        "a|urlencode|length",
        "a is divisibleby 2 if false else a|length",
        "a.isspace()",
        "a.casefold()",
    ] {
        let loops = "{% for i in range(90000) %}{% for j in range(1000) %}{% if EXPR %}{% endif %}{% endfor %}{% endfor %}";
        let source = format!("{set}{}", loops.replace("EXPR", expression));
        // A part of the work is soon done, and the same in kind.
        let limits = Limits {
            work: 100_000,
            ..Limits::default()
        };
        let fault = run_within(&source, limits).unwrap_err().to_string();
        assert!(fault.contains("takes too "), "{expression}: {fault}");
    }
}

#[test]
fn conversations_are_bounded_as_well() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    // Deeper than any parser of JSON makes them, but a library's caller can.
    let mut deep = json!(1);
    for _ in 0..5000 {
        deep = Value::Array(vec![deep]);
    }
    let template = Template::new("{{ x }}").unwrap();
    let variables = [Variable {
        name: "x",
        value: &deep,
        origin: Origin::Input,
    }];
    let fault = template.render(&variables, Limits::default()).unwrap_err();
    assert!(fault.to_string().contains("deeply"), "{fault}");
    let long = Value::from("x".repeat(100 << 20));
    let variables = [Variable {
        name: "x",
        value: &long,
        origin: Origin::Input,
    }];
    let fault = template.render(&variables, Limits::default()).unwrap_err();
    assert!(fault.to_string().contains("memory"), "{fault}");
    // Not the test's own stack, which is small.
    while let Value::Array(mut items) = deep {
        deep = items.pop().unwrap_or_default();
    }
}

#[test]
fn time_has_a_limit_of_its_own() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let template = Template::new(
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    );
    let limits = Limits {
        work: u64::MAX,
        memory: usize::MAX,
        time: Duration::from_millis(50),
    };
    let start = Instant::now();
    let fault = template.unwrap().render(&[], limits).unwrap_err();
    assert!(fault.to_string().contains("too long"), "{fault}");
    assert!(start.elapsed() < Duration::from_secs(5));
}
