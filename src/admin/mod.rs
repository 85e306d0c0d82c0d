//! The admin address: `/metrics`, `/live`, `/ready`.
