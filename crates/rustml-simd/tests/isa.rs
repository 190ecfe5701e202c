//! Finding, naming and entering instruction sets.

use rustml_simd::{with_isa, Isa, Kernel, Simd};

struct Describe;
impl Kernel for Describe {
    type Out = (usize, i32);
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (usize, i32) {
        (S::LANES, S::I8_BIAS)
    }
}

#[test]
fn every_isa_is_entered_as_itself() {
    for isa in Isa::available() {
        assert_eq!(
            with_isa(isa, Describe),
            (isa.lanes(), isa.i8_bias()),
            "{isa:?}"
        );
    }
}

#[test]
fn the_plain_set_is_always_there_and_the_best_is_the_last() {
    let available = Isa::available();
    assert_eq!(available[0], Isa::Scalar);
    assert!(available.is_sorted());
    assert_eq!(available.last(), Some(&Isa::best()));
    println!("available: {available:?}");
}

/// Some CPUs with AVX-512 multiply bfloat16, no other set does.
#[test]
fn extras_are_named_beside_the_sets() {
    let sets: Vec<_> = Isa::available().iter().map(|i| i.name()).collect();
    let features = rustml_simd::cpu_features();
    assert_eq!(features[..sets.len()], sets);
    let extra = Isa::Avx512.is_available() && Isa::Avx512.dots_bf16();
    assert_eq!(
        features[sets.len()..],
        ["avx512-bf16"][..usize::from(extra)]
    );
    for isa in Isa::available().into_iter().filter(|i| i.lanes() < 16) {
        assert!(!isa.dots_bf16());
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for isa in Isa::available() {
        assert_eq!(Isa::parse(isa.name()), Ok(isa));
        assert_eq!(Isa::parse(&isa.name().to_uppercase()), Ok(isa));
        assert_eq!(Isa::parse(&isa.name().replace('-', "_")), Ok(isa));
    }
}

#[test]
fn an_unknown_name_is_refused_with_those_there_are() {
    let error = Isa::parse("mmx").unwrap_err();
    assert!(
        error.contains("'mmx'") && error.contains("scalar"),
        "{error}"
    );
}

/// No CPU has both AVX2 and NEON.
fn absent() -> Isa {
    [Isa::Avx2, Isa::Neon]
        .into_iter()
        .find(|isa| !isa.is_available())
        .unwrap()
}

#[test]
fn an_absent_set_is_refused_by_name() {
    let error = Isa::parse(absent().name()).unwrap_err();
    assert!(
        error.contains("this CPU has no") && error.contains("scalar"),
        "{error}"
    );
}

#[test]
#[should_panic(expected = "is not available here")]
fn an_absent_set_is_not_entered() {
    with_isa(absent(), Describe);
}

/// Against what the system says.
#[test]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn the_core_is_of_the_kind_that_the_system_says() {
    use rustml_simd::Core;
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let of = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let family = of("cpu family").map(|f| f.parse::<u32>().unwrap());
    let expected = match (of("vendor_id").as_deref(), family) {
        (Some("GenuineIntel"), _) => Core::Intel,
        (Some("AuthenticAMD"), Some(26..)) => Core::Zen5,
        _ => Core::Other,
    };
    assert_eq!(Core::here(), expected);
}
