# Packages of any Debian suite, through the mirror that this machine's apt already uses. To be sourced by bash.
#
# apt is given a list of sources, a state and a cache of its own, so nothing on the machine changes and root is not needed.
# The signatures are checked with Debian's keyring. Nothing is pinned to a version: Debian removes each version when it
# publishes the next, so what is taken is the newest.
#
# Each function returns 1 where it cannot, and sets `debian_reason`.

# debian_open FOLDER MACHINE SUITE…: afterwards the others work on these suites.
debian_open() {
  debian_folder=$1
  local machine=$2 suite site mirror security
  shift 2
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    { debian_reason="this comes from Debian's packages, and this machine has no apt-get"; return 1; }
  mirror=$(debian_mirror Debian) security=$(debian_mirror Debian-Security)
  [[ -n $mirror ]] || { debian_reason="apt knows no Debian mirror here (apt-get update makes it known)"; return 1; }
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  [[ -r $keyring ]] || { debian_reason="$keyring is missing (package debian-archive-keyring)"; return 1; }

  mkdir -p "$debian_folder"/{lists/partial,cache/archives/partial,packages}
  : >"$debian_folder/status"
  for suite in "$@"; do
    site=$mirror
    [[ $suite == *-security ]] && site=$security
    [[ -z $site ]] || echo "deb [signed-by=$keyring] $site $suite main"
  done | sort -u >"$debian_folder/sources.list"
  debian_options=(-q -o Dir::Etc::sourcelist="$debian_folder/sources.list" -o Dir::Etc::sourceparts=-
    -o Dir::State::lists="$debian_folder/lists" -o Dir::State::status="$debian_folder/status"
    -o Dir::Cache="$debian_folder/cache" -o APT::Architecture="$machine" -o APT::Architectures="$machine"
    -o APT::Sandbox::User=root -o Acquire::Languages=none)

  # The lists are good for a day.
  [[ -n $(find "$debian_folder/lists" -maxdepth 1 -name '*_Packages*' -mtime -1 -print -quit) ]] ||
    apt-get "${debian_options[@]}" update >"$debian_folder/log" 2>&1 || debian_failed "apt-get update failed"
}

# Where this machine's own sources are, for the archive that carries this label.
debian_mirror() { # LABEL
  apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' "Label: $1" 2>/dev/null | head -n 1
}

debian_failed() { # WHAT; the reason is what apt complained about
  debian_reason="$1: $(grep -aE '^[EW]:' "$debian_folder/log" | head -n 1)"
  return 1
}

# Prints the name of the newest package whose whole name matches; nothing if there is none.
debian_newest() { # PATTERN
  apt-cache "${debian_options[@]}" pkgnames | grep -xE "$1" | sort -V | tail -n 1 || true
}

# Prints the newest version of a package.
debian_version() { # PACKAGE
  apt-cache "${debian_options[@]}" show --no-all-versions "$1" | sed -n 's/^Version: //p' | head -n 1
}

# Unpacks the newest version of a package into a folder; nothing of it is run.
debian_unpack() { # PACKAGE FOLDER
  rm -f "$debian_folder/packages/"*.deb
  (cd "$debian_folder/packages" && apt-get "${debian_options[@]}" download "$1" >"$debian_folder/log" 2>&1) ||
    debian_failed "cannot download $1" || return 1
  dpkg-deb -x "$debian_folder/packages/${1}_"*.deb "$2"
  rm -f "$debian_folder/packages/"*.deb
}
