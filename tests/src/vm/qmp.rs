//! QEMU's machine protocol: one JSON object per line, over a unix socket (docs/interop/qmp-spec.rst).

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

/// A connection in command mode.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
}

/// Why a command gave no result.
#[derive(Debug)]
pub(super) enum QmpFailure {
    /// The connection broke, or no answer came in time.
    Io(io::Error),
    /// QEMU refused the command.
    Refused(String),
}

impl From<io::Error> for QmpFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Qmp {
    /// Reads the greeting and enters command mode. `patience` bounds each wait for an answer.
    pub(super) fn negotiate(stream: UnixStream, patience: Duration) -> Result<Self, QmpFailure> {
        stream.set_read_timeout(Some(patience))?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        let greeting = qmp.receive()?;
        if greeting.get("QMP").is_none() {
            return Err(QmpFailure::Refused(format!("not a QMP greeting: {greeting}")));
        }
        qmp.execute("qmp_capabilities", &Value::Null)?;
        Ok(qmp)
    }

    /// Executes `command` and returns its result; `arguments` is an object or null. Events that arrive are dropped.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, QmpFailure> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments.clone();
        }
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut answer = self.receive()?;
            if let Some(error) = answer.get("error") {
                return Err(QmpFailure::Refused(error["desc"].as_str().unwrap_or_default().to_owned()));
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    fn receive(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays QEMU: sends each line, after as many requests as it answers.
    fn peer(lines: &'static [&'static str]) -> (UnixStream, std::thread::JoinHandle<Vec<Value>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let mut stream = BufReader::new(theirs);
            let mut requests = Vec::new();
            for line in lines {
                stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
                let mut request = String::new();
                if stream.read_line(&mut request).unwrap() > 0 {
                    requests.push(serde_json::from_str(&request).unwrap());
                }
            }
            requests
        });
        (ours, thread)
    }

    #[test]
    fn commands_are_answered_and_events_are_dropped() {
        let (stream, peer) = peer(&[
            r#"{"QMP": {"version": {}, "capabilities": []}}"#,
            r#"{"return": {}}"#,
            "{\"event\": \"STOP\"}\r\n{\"return\": {\"running\": true}}",
            r#"{"error": {"class": "GenericError", "desc": "no such command"}}"#,
        ]);
        let mut qmp = Qmp::negotiate(stream, Duration::from_secs(60)).unwrap();
        assert_eq!(qmp.execute("query-status", &Value::Null).unwrap(), json!({ "running": true }));
        let refused = qmp.execute("nonesuch", &json!({ "a": 1 })).unwrap_err();
        assert!(matches!(refused, QmpFailure::Refused(text) if text == "no such command"));
        drop(qmp);
        let requests = peer.join().unwrap();
        assert_eq!(requests[1], json!({ "execute": "query-status" }));
        assert_eq!(requests[2], json!({ "execute": "nonesuch", "arguments": { "a": 1 } }));
    }

    #[test]
    fn a_peer_that_goes_away_is_an_error() {
        let (stream, other) = UnixStream::pair().unwrap();
        drop(other);
        assert!(matches!(Qmp::negotiate(stream, Duration::from_secs(60)), Err(QmpFailure::Io(_))));
    }
}
