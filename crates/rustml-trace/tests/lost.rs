//! What the report says of a machine that is busy, or slow.

mod rounds;

use rounds::{advice, close, round};
use rustml_trace::compare::Comparison;
use rustml_trace::document::Document;
use rustml_trace::lost::{Lost, ThreadTime};
use rustml_trace::render::markdown;
use rustml_trace::round::Round;
use rustml_trace::tables::{Of, Tables};

/// Beside others the same kernels seem slow: the report says first who had the time.
#[test]
fn lost_time_is_ranked_and_said_first() {
    let quiet = round(2, 1.0);
    // The steps took `times` as long as they say, all in all.
    let busy = |times: f64| {
        let mut busy = round(2, 1.0);
        for run in &mut busy.runs {
            let wall = run.decode.total.iter().sum::<u64>() as f64 / 1e9 * times;
            let thread = |waited: f64| ThreadTime {
                ran: (1.0 - waited) * wall,
                waited: waited * wall,
            };
            run.decode.lost = Some(Lost {
                wall,
                threads: vec![thread(0.1), thread(0.5)],
                stolen: 0.1,
            });
        }
        busy
    };
    let (mut busy, elsewhere) = (busy(1.0), Tables::of(&busy(10.0)));
    let (before, t) = (Tables::of(&quiet), Tables::of(&busy));
    assert!(close(t.decode.lost, 0.6) && t.prefill.lost == 0.0);
    let first = &t.findings[0];
    assert_eq!(first.what, "time that the machine gave to others");
    assert!(close(first.gain.unwrap(), 0.6) && close(first.share.unwrap(), 0.6));
    assert_eq!(
        first.advice,
        "the threads ran 70 % of the time, and one of them was ready to run and did not for 50 %; \
         the host took 10 % of the CPUs; the cgroup's quota stopped them 6 times; end what else \
         runs on these CPUs, or look on a quieter machine"
    );
    assert!(says_row(
        &busy,
        "| decode, of the time given to others | 60 %"
    ));
    assert!(says_row(&busy, "| of it given to others, at least |"));
    busy.machine.threads = busy.machine.allowed_cpus + 1;
    let own = advice(&busy, "time that the machine gave").unwrap().1;
    assert!(own.contains("CPUs wait for each other, too"), "{own}");
    busy.machine.threads = quiet.machine.threads;
    // The head reached half of its roof, but had 0.4 of the time: kernels gain nothing there.
    let gain = |t: &Tables| {
        let head = t
            .findings
            .iter()
            .find(|f| f.what == "lm_head" && f.of == Of::Decode);
        head.and_then(|f| f.gain)
    };
    assert!(gain(&before).is_some() && gain(&t).is_none());
    // What was lost may all lie outside of the steps that the means are of.
    assert!(close(elsewhere.decode.lost, 0.6) && elsewhere.decode.lost_in_means == 0.0);
    assert_eq!(gain(&before), gain(&elsewhere));
    let text = |round: &Round| markdown(&Document::report(round.clone(), None));
    let says = text(&busy);
    let at = |what: &str| says.find(what).unwrap_or_else(|| panic!("{what}: {says}"));
    let lost = at("The machine gave 60 % of the time to others while generating");
    assert!(lost < at("A token takes"));
    assert!(!text(&quiet).contains("to others while"));
    let c = Comparison::of(&quiet, &busy);
    let given = c.settings.iter().find(|s| s.what == "time given to others");
    let given = given.map(|s| (s.before.as_str(), s.after.as_str()));
    assert_eq!(given, Some(("-", "60 %")));
}

/// Whether the report has a row that begins so, however its columns are filled.
fn says_row(round: &Round, row: &str) -> bool {
    let text = markdown(&Document::report(round.clone(), None));
    let row: String = row.split_whitespace().collect();
    let packed = |line: &str| line.split_whitespace().collect::<String>();
    text.lines().any(|line| packed(line).starts_with(&row))
}

/// Slow clocks make all kernels slow, and nothing else says so.
#[test]
fn slow_clocks_are_said() {
    let mut slow = round(2, 1.0);
    assert!(advice(&slow, "the CPUs ran at").is_none());
    slow.runs[0].megahertz = Some([3400.0, 3600.0]);
    assert!(advice(&slow, "the CPUs ran at").is_none());
    slow.runs[1].megahertz = Some([1200.0, 3600.0]);
    assert!(advice(&slow, "the CPUs ran at 1200 of 3600 MHz").is_some());
    let c = Comparison::of(&round(2, 1.0), &slow);
    let settings = c.settings.iter().find(|s| s.what == "frequency");
    let settings = settings.map(|s| (s.before.as_str(), s.after.as_str()));
    assert_eq!(settings, Some(("-", "2.3 GHz")));
}
