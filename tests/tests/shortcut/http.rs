//! As much HTTP as it takes to have servers pass bytes on.

use std::collections::HashMap;
use std::io;
use std::thread;

use osm_tests::traffic::{Pattern, accept};
use socket2::Socket;

use crate::compare::{limit, receive, send_all};

/// Puts a stream to a server that answers with the same, over a connection that is kept.
///
/// # Errors
/// What was other than expected.
pub fn put(socket: &Socket, key: u64, length: usize) -> Result<(), String> {
    let head = format!("PUT /{key} HTTP/1.1\r\nHost: app\r\nContent-Length: {length}\r\n\r\n");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut message = head.into_bytes();
            let body = message.len();
            message.resize(body + length, 0);
            Pattern::new(key).fill(0, &mut message[body..]);
            for piece in message.chunks(48 << 10) {
                send_all(socket, piece);
            }
        });
        let mut reader = Reader::new(socket);
        let head = reader.head().map_err(|error| error.to_string())?;
        let head = head.ok_or("no answer")?;
        if !head.first.contains(" 200 ") || head.length != Some(length) {
            return Err(format!("odd answer: {head:?}"));
        }
        let mut done = 0;
        while done < length {
            let bytes = reader
                .body(length - done)
                .map_err(|error| format!("{error} after {done} of {length} bytes of the answer"))?;
            let found = Pattern::new(key).check(done as u64, &bytes);
            found.map_err(|mismatch| mismatch.to_string())?;
            done += bytes.len();
        }
        Ok(())
    })
}

/// Answers every PUT with what was put, on every connection that the listener accepts, for ever.
pub fn serve(listener: Socket) {
    thread::spawn(move || {
        while let Ok((socket, _)) = accept(&listener, false) {
            limit(&socket);
            thread::spawn(move || while echo(&socket).is_ok_and(|more| more) {});
        }
    });
}

/// One request; says whether another may follow.
fn echo(socket: &Socket) -> io::Result<bool> {
    let mut reader = Reader::new(socket);
    let Some(head) = reader.head()? else {
        return Ok(false);
    };
    let length = head.length.unwrap_or(0);
    // Not before it has all: a proxy may not read the answer while it has something to write.
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    let mut answer = head.into_bytes();
    let all = answer.len() + length;
    while answer.len() < all {
        answer.extend(reader.body(all - answer.len())?);
    }
    send_all(socket, &answer);
    Ok(true)
}

#[derive(Debug)]
struct Head {
    first: String,
    length: Option<usize>,
}

/// Reads a message; what follows it is not asked for before it is over.
struct Reader<'a> {
    socket: &'a Socket,
    waiting: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(socket: &'a Socket) -> Self {
        Self {
            socket,
            waiting: Vec::new(),
        }
    }

    /// The lines up to the empty one; none where the peer is done.
    fn head(&mut self) -> io::Result<Option<Head>> {
        let end = loop {
            let found = self.waiting.windows(4).position(|it| it == b"\r\n\r\n");
            if let Some(end) = found {
                break end;
            }
            let more = receive(self.socket, 16 << 10, 0)?;
            if more.is_empty() {
                return Ok(None);
            }
            self.waiting.extend(more);
        };
        let rest = self.waiting.split_off(end + 4);
        let text = String::from_utf8_lossy(&self.waiting).into_owned();
        self.waiting = rest;
        let (first, fields) = text.split_once("\r\n").unwrap_or((&text, ""));
        let fields: HashMap<_, _> = fields
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value))
            .collect();
        Ok(Some(Head {
            first: first.to_owned(),
            length: fields.get("content-length").and_then(|it| it.parse().ok()),
        }))
    }

    /// Up to so many bytes of the body.
    fn body(&mut self, most: usize) -> io::Result<Vec<u8>> {
        if !self.waiting.is_empty() {
            let rest = self.waiting.split_off(most.min(self.waiting.len()));
            return Ok(std::mem::replace(&mut self.waiting, rest));
        }
        let bytes = receive(self.socket, most.min(64 << 10), 0)?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
}
