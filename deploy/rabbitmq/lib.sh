# Shared by the scripts beside it: how they speak, how they bound a wait, and what this machine offers.
# Meant to be sourced by bash 3.2 or later (macOS still ships that one).

# Everything we tell goes to stderr: stdout belongs to the answer, or to the command that we run.
say() { printf 'broker: %s\n' "$*" >&2; }

# Why a way to a broker was not taken. Kept until it is known whether any way served.
reasons=""
because() {
  reasons="$reasons
broker:   - $*"
}

give_up() {
  say "no RabbitMQ to be had:"
  printf '%s\n' "${reasons#?}" >&2
  say "what helps, any of:"
  say "  - AMQP_URL=amqp://user:password@host:5672/vhost, of a RabbitMQ 3.10 or later where queues may be declared"
  say "  - a running Docker daemon that this user may use, and Docker Hub in reach or root rights to build an image"
  say "  - an installed rabbitmq-server (Debian, Ubuntu: apt-get install rabbitmq-server)"
  exit 69
}

have() { command -v "$1" >/dev/null 2>&1; }

# bounded SECONDS COMMAND…: ends the command when its time is up (exit code 124 or 142).
bounded() {
  local seconds_max=$1
  shift
  if have timeout; then
    timeout --kill-after=10 "$seconds_max" "$@"
  elif have perl; then
    perl -e 'alarm shift; exec @ARGV or exit 127' "$seconds_max" "$@"
  else
    "$@"
  fi
}

# root_prefix: prints what makes a command run as root without asking anybody; fails where nothing does.
root_prefix() {
  if [ "$(id -u)" = 0 ]; then
    return 0
  fi
  have sudo && bounded 10 sudo -n true </dev/null >/dev/null 2>&1 && echo "sudo -n"
}

# docker_serves: is there a daemon that answers us? Its own words are kept in $docker_complaint.
docker_complaint=""
docker_serves() {
  if ! have docker; then
    docker_complaint="the docker command is not installed"
    return 1
  fi
  local answer
  if ! answer=$(bounded 15 docker version --format '{{.Server.Version}}' 2>&1 </dev/null); then
    docker_complaint="the Docker daemon does not answer (${DOCKER_HOST:-its default socket}): $(one_line "$answer")"
    return 1
  fi
}

# The last line that says something, cut to a length that fits on a screen.
one_line() {
  printf '%s\n' "$1" | awk 'NF { last = $0 } END { print substr(last, 1, 240) }'
}

# apt_install PACKAGE…: never asks, never starts a service, never waits long for a mirror that is not there.
apt_install() {
  local as_root quiet_services rc=0
  have apt-get || { echo "apt-get is not here"; return 1; }
  as_root=$(root_prefix) || { echo "neither root nor sudo without a password"; return 1; }
  quiet_services=""
  # Maintainer scripts ask policy-rc.d whether they may start a service; 101 means no. One that is there already decides.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    quiet_services=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$quiet_services" >/dev/null && $as_root chmod 755 "$quiet_services"
  fi
  local options="-o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15 -o Acquire::Retries=1 -o DPkg::Lock::Timeout=120"
  # A foreign source that cannot be reached must not keep us from Debian's own.
  bounded 120 $as_root apt-get $options -qq update >/dev/null 2>&1 </dev/null || true
  bounded 400 $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get $options -qq -y --no-install-recommends install "$@" </dev/null 2>&1 || rc=$?
  if [ -n "$quiet_services" ]; then
    $as_root rm -f "$quiet_services"
  fi
  return $rc
}
