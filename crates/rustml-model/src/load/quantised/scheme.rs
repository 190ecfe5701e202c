//! What config.json says about quantised weights.

use crate::error::{show, Result};
use crate::source::Config;

/// How the linear layers of a checkpoint are quantised.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scheme {
    /// Floats of 8 bits, with a scale for each block, row or tensor.
    Fp8 {
        /// Rows and columns of a block.
        block: (usize, usize),
    },
    /// Blocks of 32 floats of 4 bits, in gpt-oss's two tensors.
    Mxfp4,
    /// Integers that lie down the columns, their groups perhaps listed.
    Gptq {
        layout: Packing,
        /// What is added to stored zero points.
        zeros: i32,
    },
    /// Integers of 4 bits in AutoAWQ's order.
    Awq { layout: Packing },
    /// Whatever compressed-tensors packs, told apart by the tensors.
    Compressed {
        /// Values of a group that config.json names; 0 stands for a row.
        groups: Vec<usize>,
        /// Rows and columns of a block.
        block: (usize, usize),
    },
    /// Integers with a scale and an offset for each group, as MLX has them.
    Mlx {
        layout: Packing,
        /// Layers that differ: name, and how they are packed.
        layers: Vec<(String, Packing)>,
    },
    /// bitsandbytes: a table of 16 values and the largest of each block.
    Table,
}

/// Bits of a value, and values of a group; 0 stands for a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Packing {
    pub bits: usize,
    pub group: usize,
}

/// What is read, for whoever has something else.
const READ: &str = "fp8, fbgemm_fp8, mxfp4, gptq, awq, auto-round, compressed-tensors, \
     bitsandbytes in 4 bits and MLX";
const INSTEAD: &str = "take a GGUF file of the model, or a checkpoint in float types";

impl Scheme {
    /// How the weights beside this config.json are quantised, if they are.
    ///
    /// # Errors
    /// If it is a method that is not read, or a setting makes no sense.
    pub fn of(config: &Config) -> Result<Option<Scheme>> {
        for key in ["quantization_config", "compression_config", "quantization"] {
            if let Some(c) = config.object(key)? {
                return Scheme::parse(&c, key).map(Some);
            }
        }
        Ok(None)
    }

    fn parse(c: &Config, key: &str) -> Result<Scheme> {
        let refused = |what: String| {
            Err(c.error(format!(
                "{key}: {what}; read are {READ}; otherwise {INSTEAD}"
            )))
        };
        let Some(method) = c.str("quant_method")? else {
            return match (c.usize("bits")?, c.str("mode")?.unwrap_or("affine")) {
                (Some(_), "affine") => mlx(c, key),
                (Some(_), mode) => refused(format!("mode is {}, which is not read", show(mode))),
                (None, _) => refused("quant_method is missing".into()),
            };
        };
        let format = match c.str("checkpoint_format")? {
            Some(format) => Some(format),
            None => c.str("format")?,
        };
        match method {
            "fp8" | "fbgemm_fp8" => Ok(Scheme::Fp8 {
                block: block(c, "weight_block_size")?,
            }),
            "mxfp4" => Ok(Scheme::Mxfp4),
            "gptq" => match format.unwrap_or("gptq") {
                "gptq" => gptq(c, key, 1),
                "gptq_v2" => gptq(c, key, 0),
                other => refused(format!("the format {} is not read", show(other))),
            },
            "awq" => match c.str("version")?.or(format).unwrap_or("gemm") {
                "gemm" | "GEMM" => awq(c, key),
                other => refused(format!("the version {} is not read", show(other))),
            },
            "auto-round" | "intel/auto-round" => {
                let packing = c.str("packing_format")?.unwrap_or("auto_round:gptq");
                match packing {
                    "auto_round:gptq" | "auto_round:auto_gptq" => gptq(c, key, 1),
                    "auto_round:awq" | "auto_round:auto_awq" => awq(c, key),
                    other => refused(format!("packing_format {} is not read", show(other))),
                }
            }
            "compressed-tensors" => compressed(c, format.unwrap_or("dense"), refused),
            "metal" => mlx(c, key),
            "bitsandbytes" => match c.bool("load_in_4bit")?.unwrap_or(false) {
                true => Ok(Scheme::Table),
                false => refused("only load_in_4bit is read of bitsandbytes".into()),
            },
            other => refused(format!("quant_method {} is not read", show(other))),
        }
    }
}

/// Bits and group of a layer, where the number of bits is one of `allowed`.
fn packing(c: &Config, key: &str, allowed: &[usize]) -> Result<Packing> {
    let bits = c.usize("bits")?.unwrap_or(4);
    if !allowed.contains(&bits) {
        return Err(c.error(format!(
            "{key}.bits is {bits}; read are {allowed:?}; otherwise {INSTEAD}"
        )));
    }
    let group = match c.f32("group_size")? {
        None => 128,
        // One group is the whole row.
        Some(-1.0) => 0,
        Some(_) => c.usize("group_size")?.unwrap_or(0),
    };
    Ok(Packing { bits, group })
}

fn gptq(c: &Config, key: &str, zeros: i32) -> Result<Scheme> {
    let layout = packing(c, key, &[2, 3, 4, 8])?;
    for differing in ["dynamic", "extra_config"] {
        no_exceptions(c, key, differing)?;
    }
    Ok(Scheme::Gptq { layout, zeros })
}

fn awq(c: &Config, key: &str) -> Result<Scheme> {
    no_exceptions(c, key, "extra_config")?;
    let layout = packing(c, key, &[4])?;
    Ok(Scheme::Awq { layout })
}

/// Layers that are packed in another way than the rest. Those that are not packed at all
/// need no setting, since their tensors have another name.
fn no_exceptions(c: &Config, key: &str, differing: &str) -> Result<()> {
    for layer in c.objects(differing)? {
        let bits = layer.1.usize("bits")?;
        if bits.is_some_and(|b| b < 16) || layer.1.has("group_size") && bits.is_none() {
            return Err(c.error(format!(
                "{key}.{differing} gives {} a packing of its own, which is not read; {INSTEAD}",
                show(layer.0)
            )));
        }
    }
    Ok(())
}

fn mlx(c: &Config, key: &str) -> Result<Scheme> {
    let allowed = [2, 3, 4, 5, 6, 8];
    let layers = c.objects_if();
    let layers = layers.map(|(name, layer)| Ok((name.to_owned(), packing(&layer, key, &allowed)?)));
    let layers = layers.collect::<Result<_>>()?;
    let layout = packing(c, key, &allowed)?;
    Ok(Scheme::Mlx { layout, layers })
}

fn compressed(
    c: &Config,
    format: &str,
    refused: impl Fn(String) -> Result<Scheme>,
) -> Result<Scheme> {
    let known = [
        "pack-quantized",
        "int-quantized",
        "float-quantized",
        "naive-quantized",
        "mixed-precision",
        "dense",
    ];
    let sparse = c.object("sparsity_config")?;
    let sparse = sparse.and_then(|s| s.str_if("format")).unwrap_or("dense");
    if sparse != "dense" {
        return refused(format!("the sparse format {} is not read", show(sparse)));
    }
    let mut formats = vec![format];
    let (mut groups, mut blocks) = (Vec::new(), (128, 128));
    for (_, group) in c.objects("config_groups")? {
        formats.extend(group.str("format")?);
        let Some(weights) = group.object("weights")? else {
            continue;
        };
        match weights.usize("group_size") {
            Ok(size) => groups.push(size.unwrap_or(0)),
            // -1, as for channels.
            Err(_) => groups.push(0),
        }
        blocks = block(&weights, "block_structure")?;
    }
    match formats.into_iter().find(|f| !known.contains(f)) {
        Some(format) => refused(format!("the format {} is not read", show(format))),
        None => Ok(Scheme::Compressed {
            groups,
            block: blocks,
        }),
    }
}

/// Rows and columns of a block.
fn block(c: &Config, key: &str) -> Result<(usize, usize)> {
    match c.usizes(key)?.as_deref() {
        None => Ok((128, 128)),
        Some(&[rows, cols]) if rows > 0 && cols > 0 => Ok((rows, cols)),
        Some(other) => Err(c.error(format!(
            "{key} is {other:?}, but must be two numbers above 0"
        ))),
    }
}
