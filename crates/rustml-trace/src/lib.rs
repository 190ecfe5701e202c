//! Events of a run and the folds over them.
