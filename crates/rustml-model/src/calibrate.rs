//! Which format a linear layer is fastest in, measured.
//!
//! A fixed rule was wrong before: narrow layers ran slower quantised than not.
//! So for each distinct shape a product of one row is timed, as decoding needs
//! it, in the type of the file and in those that could take its place, and the
//! fastest is taken. Before each product as much other memory is read as the
//! other layers take, or as no cache holds: a step comes back to a layer when
//! it has read all others.
//!
//! What was found is kept in a file, for this CPU and this build.

use crate::quantize::fits;
use rustml_io::DType;
use rustml_kernels::formats::convert_row;
use rustml_kernels::par::{matmul, pack_rows, prepare_rows, Output, Team};
use rustml_kernels::{roof, Acts, AlignedBytes, Matrix};
use serde_json::{json, Value};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What may take the place of floats unasked. F16 lacks the range of F32, and
/// 4 bits are less exact: these are nobody's choice but the user's.
const CANDIDATES: [DType; 2] = [DType::BF16, DType::Q8_0];

/// Bytes that are read between products at most: no cache holds them whole.
const OTHERS: usize = 48 << 20;

/// Bytes of all weights beyond which models are alike: in each format, more is
/// read than [`OTHERS`].
const LARGE: usize = 4 * OTHERS;

/// Bytes of a matrix beyond which fewer outputs are measured: it takes as long
/// for each.
const LARGEST_MATRIX: usize = 12 << 20;

/// How long the formats of one shape are measured, and how often at least.
const TIME: Duration = Duration::from_millis(20);
const PASSES: usize = 5;

/// A format is taken only if it is faster by more than measurements differ.
const CLEARLY: f64 = 0.97;

/// Files and entries beyond these are not ours.
const MAX_FILE: u64 = 1 << 20;
const MAX_BUILDS: usize = 8;

/// A shape of linear layers in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    stored: DType,
    outputs: usize,
    inputs: usize,
    /// Bytes of all weights in the file, but no more than [`LARGE`].
    model: usize,
}

/// Time of one product of one row, by format; that of the file first.
pub type Timings = Vec<(DType, Duration)>;

/// Formats for shapes: measured when asked for the first time.
#[derive(Default)]
pub struct Calibration {
    known: HashMap<Shape, Timings>,
    /// Where it is kept, and for which CPU and build.
    file: Option<(PathBuf, String)>,
    problem: Option<String>,
    changed: bool,
    /// What is read between products.
    others: Option<AlignedBytes>,
}

impl Calibration {
    /// What was measured before by this build on this CPU; nothing if there is
    /// no such file, or a damaged one, which [`Calibration::problem`] then says.
    pub fn open(path: &Path, team: &Team) -> Calibration {
        let key = key(team);
        let (file, problem) = match read(path) {
            Ok(file) => (file, None),
            Err(problem) => (Value::Null, Some(problem)),
        };
        let mine = entries(&file).find(|e| e["for"] == key.as_str());
        Calibration {
            known: mine.map(shapes).unwrap_or_default(),
            file: Some((path.to_owned(), key)),
            problem,
            ..Calibration::default()
        }
    }

    /// What is wrong with the file, if anything is. It is written anew.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The format for layers of this shape, stored as floats, in a model of
    /// `total` bytes; and the timings, if there was a choice.
    pub(crate) fn choose(
        &mut self,
        team: &Team,
        stored: DType,
        (outputs, inputs): (usize, usize),
        total: usize,
    ) -> (DType, Option<Timings>) {
        let shape = Shape {
            stored,
            outputs,
            inputs,
            model: total.min(LARGE),
        };
        if !stored.is_float() {
            return (stored, None);
        }
        let timings = match self.known.get(&shape) {
            Some(timings) => timings.clone(),
            None => {
                // Without memory for it the file's type is as good as any.
                let timings = self.measure(team, shape).unwrap_or_default();
                self.known.insert(shape, timings.clone());
                self.changed = true;
                timings
            }
        };
        (best(stored, &timings), Some(timings))
    }

    /// Times of a shape; `None` if there is no memory for it.
    fn measure(&mut self, team: &Team, shape: Shape) -> Option<Timings> {
        let others = CANDIDATES
            .into_iter()
            // Halves in place of halves, or of what is no wider, gain nothing.
            .filter(|to| to.block_bytes() < shape.stored.block_bytes() || !to.is_float())
            .filter(|&to| fits(to, shape.inputs));
        let dtypes: Vec<DType> = [shape.stored].into_iter().chain(others).collect();
        if dtypes.len() == 1 {
            return Some(Vec::new());
        }
        // Weights that come after this do not keep its memory.
        AlignedBytes::begin_slab();
        if self.others.is_none() {
            let mut others = AlignedBytes::zeroed(OTHERS)?;
            others.begin(0..OTHERS);
            // Pages that nobody has written are all one and the same.
            others.as_mut_slice().fill(1);
            self.others = Some(others);
        }
        let others = self.others.as_ref()?.as_slice();
        let row_bytes = shape.stored.row_bytes(shape.inputs)?.max(1);
        let outputs = shape.outputs.min((LARGEST_MATRIX / row_bytes).max(64));
        let layers = dtypes
            .iter()
            .map(|&dtype| Layer::new(team, shape, outputs, dtype));
        let mut layers = layers.collect::<Option<Vec<Layer>>>()?;
        AlignedBytes::begin_slab();
        let mut times = vec![Duration::MAX; layers.len()];
        let (start, mut passes) = (Instant::now(), 0);
        while passes < PASSES || start.elapsed() < TIME {
            // In turn, so that a disturbance is not one format's alone.
            for (layer, time) in layers.iter_mut().zip(&mut times) {
                roof::read(team, &others[..layer.others]);
                *time = layer.pass(team).min(*time);
            }
            passes += 1;
        }
        let whole = |time: Duration| time.mul_f64(shape.outputs as f64 / outputs as f64);
        Some(
            dtypes
                .into_iter()
                .zip(times.into_iter().map(whole))
                .collect(),
        )
    }

    /// Keeps what was measured, if it is to be kept and there is something new.
    ///
    /// # Errors
    /// If the file cannot be written; the older one is then still there.
    pub fn save(&self) -> std::io::Result<()> {
        let (Some((path, key)), true) = (&self.file, self.changed) else {
            return Ok(());
        };
        let shapes: Vec<Value> = self.known.iter().map(|(s, t)| to_json(s, t)).collect();
        let mut builds = vec![json!({ "for": key, "shapes": shapes })];
        let older = read(path).unwrap_or_default();
        let older = entries(&older)
            .filter(|e| e["for"] != key.as_str())
            .cloned();
        builds.extend(older.take(MAX_BUILDS - 1));
        let text = json!({ "version": 1, "builds": builds }).to_string();
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        // Several may write at once: each a file of its own, and the last one
        // stays.
        rustml_io::Output::put(path, &text).map_err(std::io::Error::other)
    }
}

/// The fastest; the file's own unless another is clearly faster.
fn best(stored: DType, timings: &Timings) -> DType {
    let own = timings.iter().find(|t| t.0 == stored).map(|t| t.1);
    let limit = own.map_or(Duration::ZERO, |own| own.mul_f64(CLEARLY));
    let faster = timings.iter().filter(|t| t.1 < limit);
    faster.min_by_key(|t| t.1).map_or(stored, |t| t.0)
}

/// A layer in one format, and what a product of one row needs.
struct Layer {
    weights: Matrix,
    acts: Acts,
    input: Vec<f32>,
    output: Vec<f32>,
    /// Bytes that other layers take in this format.
    others: usize,
}

impl Layer {
    fn new(team: &Team, shape: Shape, outputs: usize, dtype: DType) -> Option<Layer> {
        let inputs = shape.inputs;
        let input: Vec<f32> = (0..inputs).map(|i| (i % 13) as f32 / 13.0 - 0.4).collect();
        let stored: Vec<u8> = input.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut row = vec![0; dtype.row_bytes(inputs)?];
        convert_row(DType::F32, &stored, dtype, &mut row, inputs);
        let share = row.len() as f64 / shape.stored.row_bytes(inputs)?.max(1) as f64;
        let mut weights = Matrix::zeroed(dtype, outputs, inputs, team.isa)?;
        let filled = pack_rows(team, &mut weights, &|_, out| {
            out.copy_from_slice(&row);
            Ok::<(), Infallible>(())
        });
        filled.ok()?;
        let model = (shape.model as f64 * share) as usize;
        Some(Layer {
            others: model.saturating_sub(weights.bytes()).min(OTHERS),
            acts: Acts::new(1, inputs, weights.forms()),
            weights,
            input,
            output: vec![0.0; outputs],
        })
    }

    /// Time of one product, the preparation of its input included.
    fn pass(&mut self, team: &Team) -> Duration {
        let start = Instant::now();
        let (cols, forms) = (self.input.len(), self.weights.forms());
        prepare_rows(team, &self.input, cols, &mut self.acts, forms);
        let output = Output {
            weights: &self.weights,
            bias: None,
            accumulate: false,
            out: &mut self.output,
        };
        matmul(team, &self.acts, &mut [output], None);
        start.elapsed()
    }
}

/// The CPU, its threads, and the program that runs: another build may have
/// other kernels.
fn key(team: &Team) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = ["model name", "Model", "CPU part"];
    let line = |name| cpu.lines().find_map(|l| l.strip_prefix(name));
    let cpu = names.into_iter().find_map(line).unwrap_or_default();
    let cpu = cpu.trim_start_matches([' ', '\t', ':']);
    let exe = std::env::current_exe().and_then(|exe| exe.metadata());
    let built = exe.ok().and_then(|m| {
        let time = m.modified().ok()?.duration_since(std::time::UNIX_EPOCH);
        Some((m.len(), time.ok()?.as_nanos()))
    });
    let (version, threads) = (env!("CARGO_PKG_VERSION"), team.pool.threads());
    format!("{version} {built:?} {cpu} {} {threads}", team.isa.name())
}

/// The file, nothing where there is none; or what is wrong with it.
fn read(path: &Path) -> Result<Value, String> {
    let problem = |what: &str| format!("{}: {what}", path.display());
    let file = match std::fs::File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Value::Null),
        file => file.map_err(|e| problem(&e.to_string()))?,
    };
    let mut text = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut text);
    read.map_err(|e| problem(&e.to_string()))?;
    if text.len() as u64 > MAX_FILE {
        return Err(problem("it is larger than such a file gets"));
    }
    let file: Value = serde_json::from_slice(&text).map_err(|e| problem(&e.to_string()))?;
    match file["version"] == 1 && file["builds"].is_array() {
        true => Ok(file),
        false => Err(problem("it holds no formats, or those of another version")),
    }
}

fn entries(file: &Value) -> impl Iterator<Item = &Value> {
    file["builds"].as_array().into_iter().flatten()
}

fn to_json(shape: &Shape, timings: &Timings) -> Value {
    let times = timings.iter();
    let times: Vec<Value> = times
        .map(|(dtype, time)| json!([dtype.name(), time.as_nanos() as u64]))
        .collect();
    json!({
        "stored": shape.stored.name(),
        "outputs": shape.outputs,
        "inputs": shape.inputs,
        "model": shape.model,
        "ns": times,
    })
}

/// What an entry says, but for what could not have been measured.
fn shapes(entry: &Value) -> HashMap<Shape, Timings> {
    let dtype = |v: &Value| DType::ALL.into_iter().find(|t| v == t.name());
    let shape = |v: &Value| -> Option<(Shape, Timings)> {
        let number = |name: &str| v[name].as_u64().and_then(|n| usize::try_from(n).ok());
        let shape = Shape {
            stored: dtype(&v["stored"])?,
            outputs: number("outputs")?,
            inputs: number("inputs")?,
            model: number("model")?,
        };
        let time = |t: &Value| -> Option<(DType, Duration)> {
            let to = dtype(&t[0])?;
            let may = to == shape.stored || CANDIDATES.contains(&to);
            let time = Duration::from_nanos(t[1].as_u64()?);
            (may && fits(to, shape.inputs)).then_some((to, time))
        };
        let timings = v["ns"].as_array()?.iter().map(time);
        Some((shape, timings.collect::<Option<Timings>>()?))
    };
    let all = entry["shapes"].as_array().into_iter().flatten();
    all.filter_map(shape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustml_kernels::Pool;
    use rustml_simd::Isa;

    fn team() -> Team {
        Team {
            isa: Isa::best(),
            pool: Pool::new(2).unwrap(),
        }
    }

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn a_format_must_be_clearly_faster() {
        let choose = |f32, half, q8| {
            let all = [(DType::F32, f32), (DType::BF16, half), (DType::Q8_0, q8)];
            best(DType::F32, &all.map(|(t, time)| (t, us(time))).to_vec())
        };
        assert_eq!(choose(100, 60, 30), DType::Q8_0);
        assert_eq!(choose(100, 30, 60), DType::BF16);
        assert_eq!(choose(100, 120, 150), DType::F32);
        assert_eq!(choose(100, 99, 98), DType::F32);
        assert_eq!(best(DType::BF16, &Vec::new()), DType::BF16);
    }

    #[test]
    fn what_was_measured_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/formats.json");
        let team = team();
        let mut first = Calibration::open(&path, &team);
        let (chosen, timings) = first.choose(&team, DType::F32, (96, 64), 1 << 16);
        let timings = timings.unwrap();
        let tried: Vec<DType> = timings.iter().map(|t| t.0).collect();
        assert_eq!(tried, [DType::F32, DType::BF16, DType::Q8_0]);
        assert!(timings
            .iter()
            .all(|t| t.1 > Duration::ZERO && t.1 < us(1_000_000)));
        assert_eq!(chosen, best(DType::F32, &timings));
        // Halves are not tried in place of halves, nor blocks that do not fit.
        let tried = |stored, inputs, c: &mut Calibration| -> Vec<DType> {
            let timings = c.choose(&team, stored, (8, inputs), 1 << 12).1.unwrap();
            timings.into_iter().map(|t| t.0).collect()
        };
        assert_eq!(tried(DType::F16, 32, &mut first), [DType::F16, DType::Q8_0]);
        assert_eq!(tried(DType::F32, 33, &mut first), [DType::F32, DType::BF16]);
        assert!(tried(DType::F16, 33, &mut first).is_empty());
        assert_eq!(first.choose(&team, DType::Q4_0, (8, 32), 1).1, None);
        first.save().unwrap();
        let mut again = Calibration::open(&path, &team);
        assert_eq!(again.known, first.known);
        assert_eq!(
            again
                .choose(&team, DType::F32, (96, 64), 1 << 16)
                .1
                .unwrap(),
            timings
        );
        assert!(!again.changed);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[test]
    fn files_that_are_not_ours_are_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("formats.json");
        let team = team();
        let entry = |ns: Value| {
            let shape = json!({"stored": "F32", "outputs": 8, "inputs": 33, "model": 64, "ns": ns});
            json!({"version": 1, "builds": [{"for": key(&team), "shapes": [shape]}]}).to_string()
        };
        let good = entry(json!([["F32", 5], ["BF16", 3]]));
        // How many shapes it holds, and whether it is to be complained about.
        for (text, shapes, sound) in [
            (good.clone(), 1, true),
            (good.replace("\"version\":1", "\"version\":2"), 0, false),
            (good.replace("builds", "x"), 0, false),
            (good.replace("\"for\":\"", "\"for\":\"another "), 0, true),
            (entry(json!([["F32", 5], ["Q8_0", 3]])), 0, true),
            (entry(json!([["F32", -5]])), 0, true),
            (entry(json!([["Q2_K", 5]])), 0, true),
            ("[]".into(), 0, false),
            (good[..good.len() - 9].into(), 0, false),
            (" ".repeat(1 << 20) + &good, 0, false),
        ] {
            std::fs::write(&path, &text).unwrap();
            let opened = Calibration::open(&path, &team);
            assert_eq!(opened.known.len(), shapes, "{text}");
            assert_eq!(opened.problem().is_none(), sound, "{text}");
            assert!(opened.problem().is_none_or(|p| p.contains("formats.json")));
        }
        // What was measured takes its place.
        let mut fresh = Calibration::open(&path, &team);
        fresh.choose(&team, DType::F32, (8, 33), 64);
        fresh.save().unwrap();
        let again = Calibration::open(&path, &team);
        assert_eq!((again.known.len(), again.problem()), (1, None));
    }
}
