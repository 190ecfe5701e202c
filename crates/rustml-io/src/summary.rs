//! What a model consists of, in a few numbers.

use std::collections::BTreeMap;

use crate::Store;

/// Totals over all tensors of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values in all of them.
    pub parameters: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// The same by type, the one with the most bytes first.
    pub types: Vec<TypeSummary>,
}

/// Totals over the tensors of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeSummary {
    /// The type as the file names it.
    pub type_name: String,
    /// Whether it can be computed with.
    pub supported: bool,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values in all of them.
    pub parameters: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Store {
    /// Adds up tensors, values and bytes, in total and by type.
    pub fn summary(&self) -> Summary {
        let mut types: BTreeMap<&str, TypeSummary> = BTreeMap::new();
        for info in self.tensors() {
            let sum = types.entry(&info.type_name).or_insert_with(|| TypeSummary {
                type_name: info.type_name.clone(),
                supported: info.dtype.is_some(),
                tensors: 0,
                parameters: 0,
                bytes: 0,
            });
            sum.tensors += 1;
            // The shapes of unknown types are unchecked claims.
            sum.parameters = sum.parameters.saturating_add(info.len() as u64);
            sum.bytes = sum.bytes.saturating_add(info.bytes as u64);
        }
        let mut types: Vec<TypeSummary> = types.into_values().collect();
        // Stable, so equals stay in the order of their names.
        types.sort_by_key(|t| std::cmp::Reverse(t.bytes));
        Summary {
            tensors: types.iter().map(|t| t.tensors).sum(),
            parameters: types
                .iter()
                .fold(0, |sum, t| sum.saturating_add(t.parameters)),
            bytes: types.iter().fold(0, |sum, t| sum.saturating_add(t.bytes)),
            types,
        }
    }
}
