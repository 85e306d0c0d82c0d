//! Our own other processes: sink and loads are this program again, so that what they use is not ours.

use std::env;
use std::io::{self, BufRead, Read, Write};
use std::process::{Command, exit};
use std::thread;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// This program, in another part.
pub fn ourselves(part: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(part);
    Ok(command)
}

/// Ends the process when standard input ends, as it does when whoever started us is gone.
pub fn end_with_input() {
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        exit(0);
    });
}

/// Writes a value as a line of JSON to standard output.
pub fn write_line(value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

/// Reads a value from a line of JSON.
pub fn read_line<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<T> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without a word"));
    }
    Ok(serde_json::from_str(&line)?)
}
