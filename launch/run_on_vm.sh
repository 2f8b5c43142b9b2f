#!/usr/bin/env bash
# What launch/tpu_vm.py does on every worker of a TPU VM. Each verb can be
# repeated: an ssh connection may break before it has said that it is done.
#
#   install            puts the unpacked checkout in place, makes the venv
#   start COMMAND...   starts a job that outlives the connection
#   status             one line: ib_keras_job HOST none|running|lost|exited N
#   log N | follow N   the last N lines of the job, and those to come
#   stop               SIGTERM to the job: it saves and ends with status 75
#   exec COMMAND...    runs a command and waits for it
#
# Exit status 2 and a line that begins with ERROR when something is refused or
# fails, 127 when nothing is installed; exec gives that of its command.
set -Eeuo pipefail

home="${IB_KERAS_VM:-$HOME/ib_keras_vm}"
code="$home/code"
venv="$home/venv"
run="$home/run"

fail() {
  echo "ERROR: $(hostname): $*" >&2
  exit 2
}

need_installation() {
  [ -f "$home/installed" ] && return
  echo "ERROR: $(hostname): not installed" >&2
  exit 127
}

trap 'fail "line $LINENO: $BASH_COMMAND"' ERR

boot_id() { cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown; }

# The process of the job, if it lives; a number of before a reboot is another's.
pid() {
  local number boot
  read -r number boot 2>/dev/null <"$run/pid" || return 1
  [ "$boot" = "$(boot_id)" ] && kill -0 "$number" 2>/dev/null && echo "$number"
}

state() {
  if pid >/dev/null; then
    echo running
  elif [ -f "$run/status" ]; then
    echo "exited $(cat "$run/status")"
  elif [ -f "$run/pid" ]; then
    echo lost
  else
    echo none
  fi
}

# A Python that setup.py takes. Ubuntu 22.04, which the images are made of, has
# 3.10 alone, so uv brings one.
make_venv() {
  local python
  rm -rf "$venv"
  for python in python3.11 python3.12; do
    if "$python" -m venv "$venv" 2>/dev/null; then return; fi
    rm -rf "$venv"
  done
  python3 -m pip install --quiet --user uv ||
    # Where the system guards its own packages; these are the user's.
    python3 -m pip install --quiet --user --break-system-packages uv
  python3 -m uv venv --quiet --seed --python 3.11 "$venv"
}

install() {
  pid >/dev/null && fail "a job is running; stop it first"
  if [ -d "$home/new" ]; then
    rm -rf "$code"
    mv "$home/new" "$code"
  fi
  cd "$code"
  local stamp pin
  stamp="$(cat setup.py launch/run_on_vm.sh | sha256sum | cut -d ' ' -f 1)"
  if [ "$(cat "$home/installed" 2>/dev/null)" = "$stamp" ]; then
    echo "$(hostname): installed already"
    return
  fi
  rm -f "$home/installed"
  make_venv
  "$venv/bin/python" -m pip install --quiet --editable ".[tpu,gcs]"
  # It requires the distribution `tensorflow`, which would overwrite the files
  # of tensorflow-tpu.
  pin="$(sed -n 's/.*"\(tf_keras[=>][^"]*\)".*/\1/p' setup.py | head -n 1)"
  "$venv/bin/python" -m pip install --quiet --no-deps "$pin"
  echo "$stamp" >"$home/installed"
  echo "$(hostname): installed"
}

start() {
  local words
  words="$(printf '%q ' "$@")"
  mkdir -p "$run"
  if pid >/dev/null; then
    [ "$words" = "$(cat "$run/command")" ] ||
      fail "another job is running; stop it first: $(cat "$run/command")"
    echo "$(hostname): running already"
    return
  fi
  need_installation
  rm -f "$run/status" "$run/pid"
  echo "$words" >"$run/command"
  setsid nohup bash "$code/launch/run_on_vm.sh" supervise "$@" \
    </dev/null >>"$run/log" 2>&1 &
  echo "$! $(boot_id)" >"$run/pid"
  echo "$(hostname): started"
}

supervise() {
  local status=0
  trap : TERM INT HUP # For the job, which shares the group; this waits for it.
  echo "--- $(date -u +%FT%TZ) $*"
  cd "$code"
  PATH="$venv/bin:$PATH" PYTHONUNBUFFERED=1 "$@" || status=$?
  echo "$status" >"$run/status.new"
  mv "$run/status.new" "$run/status"
}

status() {
  echo "ib_keras_job $(hostname) $(state)"
  if [ -f "$run/log" ]; then tail -n 1 "$run/log"; fi
}

stop() {
  local number
  if number="$(pid)"; then
    kill -TERM -- "-$number"
    echo "$(hostname): asked to stop"
  else
    echo "$(hostname): nothing runs"
  fi
}

# The lines say whose they are: the workers speak all at once.
log() {
  [ -f "$run/log" ] || fail "no job was started"
  tail -n "$@" "$run/log" | sed -u "s/^/$(hostname): /"
}

main() {
  local verb="${1:-}"
  [ $# -eq 0 ] || shift
  case "$verb" in
    install | start | supervise | status | stop) "$verb" "$@" ;;
    log) log "$1" ;;
    follow) log "$1" --follow ;;
    exec)
      need_installation
      cd "$code"
      PATH="$venv/bin:$PATH" exec "$@"
      ;;
    *) fail "no such verb: $verb" ;;
  esac
}

main "$@"
exit
