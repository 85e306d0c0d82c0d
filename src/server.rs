//! The daemon: gates opened, lanes run, signals heard.
