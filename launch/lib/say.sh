# shellcheck shell=bash
# Speaking to people, and running commands or, in a dry run, printing them.

# Return codes of steps.
NO_ANSWER=9  # a worker did not answer
TAKEN_AWAY=8 # nodes that had come are gone again

# In a dry run it is a comment between commands, and only supposed.
say() {
  local mark
  if ((DRY_RUN)); then mark='#'; else mark=$(date +%H:%M:%S); fi
  printf '%s %s\n' "$mark" "$*"
}

warn() { say "$*" >&2; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# A command as one could type it.
show() { printf '+ %s\n' "$(quoted "$@")" >&3; }

# Words as a shell reads them, with quotes where they are needed.
quoted() {
  local word line='' single="'\\''"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@+-]+$ ]] || word="'${word//\'/$single}'"
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

# Runs what changes something.
run() {
  if ((DRY_RUN)); then show "$@"; else limited "$@"; fi
}

# Runs what only asks; a dry run supposes the first argument for an answer.
ask() {
  local supposed=$1
  shift
  if ((DRY_RUN)); then
    show "$@"
    echo "$supposed"
  else
    limited "$@"
  fi
}

# Runs a command that is ended after LIMIT seconds: one that hangs would keep from watching the cost.
# In the background, since a signal waits until what is in the foreground has ended.
limited() {
  timeout --kill-after=10 "${LIMIT:-$CALL_SECONDS}" "$@" 3>&- &
  wait $!
}

# Waits, but not in a dry run.
pause() {
  if ((DRY_RUN)); then return; fi
  sleep "$1" >/dev/null 2>&1 3>&- &
  wait $!
}

# Arithmetic of money and hours, to two places.
calc() { awk "BEGIN { printf \"%.2f\", $1 }"; }

# The same of seconds, without what is behind the point.
calc_whole() { awk "BEGIN { printf \"%d\", $1 }"; }
