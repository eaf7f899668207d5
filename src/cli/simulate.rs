//! `simulate`: a truthful stand-in of the three Paywall APIs.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;

use super::output::{remark, say};
use super::{Failure, stop_signal};
use paywall_simulator::{Merchant, Ports, Simulator, SimulatorConfig};

/// Run a truthful stand-in of the three Paywall APIs, until a signal comes.
///
/// Where it listens for this machine only, requests must call it by a name or an address of this machine. Bound to
/// another address, anybody who reaches it can drive it.
///
/// Payments are seeded, faults planned and the truth asked for at the control API (POST /control/payments, POST and
/// DELETE /control/faults, GET /control/truth, GET /control/requests, POST /control/clock). The keys of merchant
/// NAME are NAME-private-key, NAME-private-client, NAME-public-key and NAME-public-client.
#[derive(Debug, Args)]
pub(super) struct Simulate {
    /// The address to listen at
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Port of the Physical API; 0 takes a free one
    #[arg(long, default_value_t = 18081)]
    physical_port: u16,
    /// Port of the Private API; 0 takes a free one
    #[arg(long, default_value_t = 18082)]
    private_port: u16,
    /// Port of the Payment API; 0 takes a free one
    #[arg(long, default_value_t = 18083)]
    payment_port: u16,
    /// Port of the control API; 0 takes a free one
    #[arg(long, default_value_t = 18080)]
    control_port: u16,
    /// A merchant whose keys are let in; may be given more than once
    #[arg(long = "merchant", value_name = "NAME", default_value = "default")]
    merchants: Vec<String>,
    /// Answer for payments that nobody seeded as if they were normal ones that can be cancelled
    #[arg(long)]
    auto_seed: bool,
    /// The seed of its jitter
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Simulate {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let config = SimulatorConfig {
            bind: self.bind,
            ports: Ports {
                physical: self.physical_port,
                private: self.private_port,
                payment: self.payment_port,
                control: self.control_port,
            },
            merchants: self.merchants.iter().map(Merchant::demo).collect(),
            auto_seed: self.auto_seed,
            seed: self.seed,
            ..SimulatorConfig::default()
        };
        let bind = self.bind;
        let signal = stop_signal();
        let simulator = Simulator::start(config)
            .await
            .map_err(|error| Failure::unavailable(format!("failed to take the ports: {error}")))?;
        if !bind.is_loopback() {
            remark(format_args!(
                "listening at {bind}: anybody who reaches it can drive it, no password is asked for"
            ));
        }
        let handle = simulator.handle();
        let urls = handle.urls();
        say!("physical_url = \"{}\"", urls.physical);
        say!("private_url = \"{}\"", urls.private);
        say!("payment_url = \"{}\"", urls.payment);
        say!("# control: {}", urls.control);
        remark(format_args!("stopping on {}", signal.await));
        simulator.shutdown().await;
        Ok(ExitCode::SUCCESS)
    }
}
