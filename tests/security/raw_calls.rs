//! Calls by path, with messages as bytes: what a descriptor tells of can be called without knowing
//! it.

use prost::Message as _;
use prost::bytes::Bytes;
use prost_types::FileDescriptorSet;
use sync_tests::raw::Raw;
use sync_tests::wait::within;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// How a call was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: Code,
    pub(crate) text: String,
    /// What programs are told, encoded as `google.rpc.Status`.
    pub(crate) details: Bytes,
    pub(crate) messages: Vec<Bytes>,
}

/// The calls of the protocol, by path, as its descriptor tells.
pub(crate) fn calls() -> Vec<String> {
    let files = FileDescriptorSet::decode(sync_proto::DESCRIPTORS).unwrap().file;
    let mut paths = Vec::new();
    for file in &files {
        for service in &file.service {
            for method in &service.method {
                paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    assert!(paths.len() >= 23, "{paths:?}");
    paths
}

/// Makes a call and takes at most `most` messages of its answer.
pub(crate) async fn call(
    channel: &Channel,
    token: Option<&str>,
    path: &str,
    messages: Vec<Vec<u8>>,
    most: usize,
) -> Answer {
    let messages = tokio_stream::iter(messages.into_iter().map(Bytes::from));
    let mut request = Request::new(messages);
    if let Some(token) = token {
        let shown = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", shown);
    }
    let mut client = tonic::client::Grpc::new(channel.clone());
    within("a connection", client.ready()).await.unwrap();
    let path = PathAndQuery::try_from(path).unwrap();
    let answered = within("an answer", client.streaming(request, path, Raw)).await;
    let mut came = Vec::new();
    let status = match answered {
        Err(status) => status,
        Ok(answer) => {
            let mut answer = answer.into_inner();
            loop {
                if came.len() == most {
                    break Status::ok("");
                }
                match within("a message", answer.message()).await {
                    Ok(Some(message)) => came.push(message),
                    Ok(None) => break Status::ok(""),
                    Err(status) => break status,
                }
            }
        }
    };
    Answer {
        code: status.code(),
        text: status.message().to_owned(),
        details: status.details().to_vec().into(),
        messages: came,
    }
}
