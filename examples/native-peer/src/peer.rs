//! A peer connection to the server, with the protocol's two data channels: all that is asked of the crate `webrtc`.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rtc::ice::mdns::MulticastDnsMode;
use switchyard_signaling::limits;
use tokio::sync::mpsc;
use webrtc::{
    data_channel::{DataChannel, RTCDataChannelInit},
    peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
        RTCSessionDescription, SettingEngineBuilder,
    },
    runtime::TokioRuntime,
};

/// The connection and its channels.
pub(crate) struct Peer {
    pub(crate) connection: Arc<dyn PeerConnection>,
    pub(crate) reliable: Arc<dyn DataChannel>,
    pub(crate) lossy: Arc<dyn DataChannel>,
}

impl Peer {
    /// A peer connection and its offer, with the addresses of this machine.
    pub(crate) async fn new() -> Result<(Self, String)> {
        let (gathered, mut is_gathered) = mpsc::channel(1);
        // The server's candidates are addresses; names in .local would need multicast, which not every machine has.
        let settings = SettingEngineBuilder::new().with_multicast_dns_mode(MulticastDnsMode::Disabled);
        let connection = PeerConnectionBuilder::new()
            .with_runtime(Arc::new(TokioRuntime))
            .with_handler(Arc::new(Gathering(gathered)))
            .with_setting_engine(settings.build())
            // One port on each interface.
            .with_udp_addrs(vec!["0.0.0.0:0"])
            .with_data_channel_send_buffer_limit(limits::PIPE_BYTES)
            .build()
            .await?;
        let reliable = RTCDataChannelInit { negotiated: Some(0), ..RTCDataChannelInit::default() };
        let lossy = RTCDataChannelInit {
            negotiated: Some(1),
            ordered: false,
            max_retransmits: Some(0),
            ..reliable.clone()
        };
        let reliable = connection.create_data_channel("reliable", Some(reliable)).await?;
        let lossy = connection.create_data_channel("lossy", Some(lossy)).await?;
        connection.set_local_description(connection.create_offer(None).await?).await?;
        is_gathered.recv().await;
        let sdp = connection.local_description().await.context("no description after gathering")?.sdp;
        Ok((Self { connection: Arc::new(connection), reliable, lossy }, sdp))
    }

    /// The server's answer: it has all candidates of the server.
    pub(crate) async fn answer(&self, sdp: String) -> Result<()> {
        Ok(self.connection.set_remote_description(RTCSessionDescription::answer(sdp)?).await?)
    }
}

/// Tells when all addresses of this machine are in the offer.
struct Gathering(mpsc::Sender<()>);

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Gathering {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            let _ = self.0.try_send(());
        }
    }
}
