//! What the fuzz targets claim. The same claims are made of the committed corpus and of generated input by
//! `tests/properties.rs`.

#[path = "../tests/claims/mod.rs"]
pub mod claims;
