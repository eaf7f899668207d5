# Shared by the scripts beside it: how they speak, how they bound a wait, and what this machine offers.
# Meant to be sourced by bash 3.2 or later (macOS still ships that one).

# Everything we tell goes to stderr: stdout belongs to the answer, or to the command that we run.
say() { printf 'broker: %s\n' "$*" >&2; }

# Something that should have been done was not done. CI repeats it in its last lines (it gives the file).
attention() {
  say "ATTENTION: $*"
  [ -z "${CANCEL_WORKER_ATTENTION:-}" ] || printf '%s\n' "$*" >>"$CANCEL_WORKER_ATTENTION"
}

# The versions that the tests run on, the preferred one first.
known_versions() { echo "4.0 3.10 4.3"; }

# RABBITMQ_VERSION names the one that is wanted, and then no other is used.
wanted_version() { echo "${RABBITMQ_VERSION:-4.0}"; }

# How to be helped, after each way has said why it does not serve. 69 is "not available" everywhere in this project.
give_up() {
  say "no RabbitMQ is available. Any of these helps:"
  say "  - AMQP_URL=amqp://user:password@host:5672/vhost make …   (RabbitMQ 3.10 or later, the user may declare queues)"
  say "  - a running Docker daemon that this user may use, with Docker Hub in reach, or root rights to build an image"
  say "  - an installed rabbitmq-server 3.10 or later (on Debian: apt-get install rabbitmq-server)"
  exit 69
}

# The head comment of a script is its help.
usage() {
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0" >&2
  exit 64
}

have() { command -v "$1" >/dev/null 2>&1; }

# The last line that says something, cut to a length that fits on a screen.
last_words() { awk 'NF { last = $0 } END { print substr(last, 1, 240) }'; }

# bounded SECONDS COMMAND…: ends the command when its time is up (exit code 124 or 142).
bounded() { (become_bounded "$@"); }

# The same in place of the shell that runs it, so that `become_bounded … &` leaves in $! what is to be ended.
become_bounded() {
  local seconds_max=$1
  shift
  if have timeout; then
    exec timeout -k 10 "$seconds_max" "$@"
  elif have perl; then
    exec perl -e 'alarm shift; exec @ARGV or exit 127' "$seconds_max" "$@"
  else
    exec "$@"
  fi
}

# accepts HOST PORT: does somebody take connections there?
accepts() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# A port that nobody listens on, below those that systems hand out by themselves.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 10000))
    accepts 127.0.0.1 "$port" || { echo "$port"; return; }
  done
}

# root_prefix: prints what makes a command run as root without asking anybody; fails where nothing does.
root_prefix() {
  if [ "$(id -u)" = 0 ]; then
    return 0
  fi
  have sudo && bounded 10 sudo -n true </dev/null >/dev/null 2>&1 && echo "sudo -n"
}

# docker_serves: is there a daemon that answers us? If not, says why.
docker_serves() {
  local answer
  if ! have docker; then
    say "Docker does not serve: the docker command is not installed"
    return 1
  fi
  if ! answer=$(bounded 15 docker version --format '{{.Server.Version}}' 2>&1 </dev/null); then
    say "Docker does not serve at ${DOCKER_HOST:-its default socket}: $(printf '%s\n' "$answer" | last_words)"
    return 1
  fi
}

# apt_install PACKAGE…: never asks, never starts a service, never waits long for a mirror that is not there.
# What went wrong is told on stdout.
apt_install() {
  local as_root rc=0 made_policy="" patience
  have apt-get || { echo "there is no apt-get"; return 1; }
  as_root=$(root_prefix) || { echo "it needs root, or sudo without a password"; return 1; }
  # Maintainer scripts ask policy-rc.d whether they may start a service; 101 means no. One that is there stays.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    made_policy=yes
    # shellcheck disable=SC2064  # what is known now is what must be undone then
    trap "$as_root rm -f /usr/sbin/policy-rc.d; exit 130" INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' | $as_root tee /usr/sbin/policy-rc.d >/dev/null
    $as_root chmod 755 /usr/sbin/policy-rc.d
  fi
  patience="-o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15 -o Acquire::Retries=1 -o DPkg::Lock::Timeout=120"
  # A foreign source that cannot be reached must not keep us from Debian's own.
  bounded 120 $as_root apt-get $patience -qq update >/dev/null 2>&1 </dev/null || true
  bounded 400 $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get $patience -qq -y --no-install-recommends install "$@" </dev/null 2>&1 || rc=$?
  if [ -n "$made_policy" ]; then
    $as_root rm -f /usr/sbin/policy-rc.d
    trap - INT TERM HUP
  fi
  return $rc
}

# native_scripts: prints the folder of the server's own scripts. Debian's wrappers in /usr/sbin insist on the system's
# user, folders and node; the scripts that they call do not.
native_scripts() {
  local folder
  for folder in /usr/lib/rabbitmq/bin "$(dirname "$(command -v rabbitmq-server 2>/dev/null || echo /nowhere/x)")" \
    /opt/homebrew/sbin /usr/local/sbin; do
    if [ -x "$folder/rabbitmq-server" ] && [ -x "$folder/rabbitmqctl" ]; then
      echo "$folder"
      return 0
    fi
  done
  return 1
}

# native_version FOLDER: prints the version of the server whose scripts are there. Even this question starts the port
# mapper of Erlang if none answers, and leaves it behind, so we lend it one of our own.
native_version() {
  local home port mapper
  home=$(mktemp -d)
  port=$(free_port)
  epmd -port "$port" -address 127.0.0.1 </dev/null >/dev/null 2>&1 &
  mapper=$!
  until accepts 127.0.0.1 "$port" || ! kill -0 "$mapper" 2>/dev/null; do sleep 0.1; done
  HOME=$home ERL_EPMD_PORT=$port ERL_EPMD_ADDRESS=127.0.0.1 RABBITMQ_CONF_ENV_FILE=/dev/null \
    bounded 60 "$1/rabbitmqctl" version 2>/dev/null </dev/null | last_words
  kill "$mapper" 2>/dev/null
  wait "$mapper" 2>/dev/null
  rm -rf "$home"
}

# at_least_3_10 VERSION: dead-lettering that loses nothing came with 3.10.
at_least_3_10() {
  local major=${1%%.*} rest=${1#*.}
  local minor=${rest%%.*}
  [ "$major" -gt 3 ] 2>/dev/null || { [ "$major" = 3 ] && [ "$minor" -ge 10 ] 2>/dev/null; }
}
