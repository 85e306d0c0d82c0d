//! The file: TOML in, every part's settings out, and every problem with it told at once.
