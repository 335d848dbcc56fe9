//! HTTP/1.1, as far as the agent needs it, byte by byte.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::server::{Instead, MESHCONFIGS, NAMESPACES, PODS, Say, State};

type Shared = Arc<Mutex<State>>;

pub async fn accept(listener: TcpListener, state: Shared) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // A client may go at any time.
            let _ = serve(stream, state).await;
        });
    }
}

async fn serve(stream: TcpStream, state: Shared) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some((method, target, body)) = request(&mut stream).await? {
        let line = format!("{method} {target}");
        let instead = {
            let mut state = state.lock().unwrap();
            state.requests.push((method.clone(), target.clone(), body));
            state.take_instead(&line)
        };
        match instead {
            Some(Instead::Answer(code, body)) => answer(&mut stream, code, &body).await?,
            Some(Instead::Silence) => tokio::time::sleep(Duration::from_hours(1)).await,
            None => route(&mut stream, &method, &target, &state).await?,
        }
    }
    Ok(())
}

async fn request(
    stream: &mut BufReader<TcpStream>,
) -> std::io::Result<Option<(String, String, String)>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return Ok(None),
        }
    }
    let head = String::from_utf8(head).unwrap();
    assert!(
        head.to_lowercase().contains("authorization: bearer t0ken"),
        "no credentials: {head}"
    );
    let length = head.lines().find_map(|line| {
        line.to_lowercase()
            .strip_prefix("content-length: ")
            .map(str::to_owned)
    });
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await?;
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let body = String::from_utf8(body).unwrap();
    Ok(Some((method.to_owned(), target.to_owned(), body)))
}

async fn route(
    stream: &mut BufReader<TcpStream>,
    method: &str,
    target: &str,
    state: &Shared,
) -> std::io::Result<()> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.trim_end_matches('/');
    let has_meshconfigs = state.lock().unwrap().has_meshconfigs;
    let collection = match path {
        _ if method != "GET" => return answer(stream, 201, "{}").await,
        "/api/v1/pods" => PODS,
        "/api/v1/namespaces" => NAMESPACES,
        "/apis/config.openservicemesh.io" if has_meshconfigs => {
            let versions = r#"{"versions":[{"version":"v1alpha1"},{"version":"v1alpha2"},{"version":"v1alpha3"}]}"#;
            return answer(stream, 200, versions).await;
        }
        "/apis/config.openservicemesh.io/v1alpha2/namespaces/osm-system/meshconfigs"
            if has_meshconfigs =>
        {
            MESHCONFIGS
        }
        _ => {
            let name = path.strip_prefix("/api/v1/namespaces/shop/pods/");
            let found = name.and_then(|name| state.lock().unwrap().get(PODS, name));
            return match found {
                Some(pod) => answer(stream, 200, &pod).await,
                None => answer(stream, 404, "404 page not found").await,
            };
        }
    };
    if !query.contains("watch=true") {
        let list = state.lock().unwrap().list(collection);
        return answer(stream, 200, &list).await;
    }
    let version = query.rsplit_once("resourceVersion=").unwrap().1;
    let version = version.split('&').next().unwrap().parse().unwrap();
    watch(stream, collection, version, state).await
}

async fn watch(
    stream: &mut BufReader<TcpStream>,
    collection: &str,
    version: u64,
    state: &Shared,
) -> std::io::Result<()> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let past = {
        let mut state = state.lock().unwrap();
        let past = state.since(collection, version);
        state.watches.push((collection.to_owned(), sender));
        past
    };
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
    chunk(stream, &past.unwrap_or_else(|| format!("{gone}\n"))).await?;
    loop {
        tokio::select! {
            said = receiver.recv() => match said {
                Some(Say::Bytes(bytes)) => chunk(stream, &bytes).await?,
                Some(Say::Cut) | None => return Err(std::io::ErrorKind::BrokenPipe.into()),
            },
            // The client says nothing more: this is its going away.
            _ = stream.read_u8() => return Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }
}

async fn chunk(stream: &mut BufReader<TcpStream>, text: &str) -> std::io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let chunk = format!("{:x}\r\n{text}\r\n", text.len());
    stream.write_all(chunk.as_bytes()).await
}

async fn answer(stream: &mut BufReader<TcpStream>, code: u16, body: &str) -> std::io::Result<()> {
    let length = body.len();
    let text = format!("HTTP/1.1 {code} X\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await
}
