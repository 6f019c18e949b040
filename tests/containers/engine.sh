#!/usr/bin/env bash
# A private Docker Engine for a machine that has none: Debian's packages, started by hand as root,
# with its own socket, data and no firewall rules; and stand-ins for images that cannot be pulled.
#   engine.sh up      starts it and prints the variables that a client needs
#   engine.sh images  makes the stand-ins for python and prometheus, from Debian's packages
#   engine.sh down    stops it; what it built stays for the next time
# DIRECTORY (default ~/.cache/nestling-containers) is where it lives.
set -euo pipefail
directory=${DIRECTORY:-$HOME/.cache/nestling-containers}
mkdir -p "$directory/config/cli-plugins"
export DOCKER_HOST=unix://$directory/docker.sock DOCKER_CONFIG=$directory/config
export DEBIAN_FRONTEND=noninteractive
mirror=$(apt-cache policy python3 | awk '/500 http/ {print $2; exit}')

up() {
    if ! command -v dockerd mmdebstrap >/dev/null; then
        apt-get update -qq
        apt-get install -qq -y --no-install-recommends docker.io iptables mmdebstrap eatmydata >/dev/null
    fi
    plugins
    if ! docker info >/dev/null 2>&1; then
        setsid dockerd --host "$DOCKER_HOST" --data-root "$directory/data" \
            --exec-root "$directory/exec" --pidfile "$directory/docker.pid" \
            --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
            --bip 10.213.0.1/24 --default-address-pool base=10.214.0.0/16,size=24 \
            >"$directory/dockerd.log" 2>&1 &
        for _ in $(seq 150); do docker info >/dev/null 2>&1 && break; sleep 0.2; done
        docker info >/dev/null
    fi
    echo "export DOCKER_HOST=$DOCKER_HOST DOCKER_CONFIG=$DOCKER_CONFIG"
}

# Compose v2 and buildx are in Debian from trixie on: taken from there, unpacked beside the system.
plugins() {
    [ -x "$DOCKER_CONFIG/cli-plugins/docker-compose" ] && return
    local apt=$directory/apt
    mkdir -p "$apt"/{lists,cache/archives}/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$apt/sources.list"
    local options=(-qq -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    (cd "$apt" && apt-get "${options[@]}" download docker-compose docker-buildx \
        && for package in *.deb; do dpkg-deb -x "$package" unpacked; done)
    cp "$apt"/unpacked/usr/libexec/docker/cli-plugins/* "$DOCKER_CONFIG/cli-plugins/"
}

images() {
    docker image inspect stand-in/python >/dev/null 2>&1 || python_image
    docker image inspect stand-in/prometheus >/dev/null 2>&1 || prometheus_image
}

# python:3.11-slim as far as the Dockerfile needs it: Debian's smallest root with its Python. pip
# in it trusts what this machine's pip trusts, and looks for wheels where WHEELS_URL says.
python_image() {
    local context=$directory/python
    mkdir -p "$context"
    eatmydata mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --include=python3,python3-venv,ca-certificates,wget bookworm "$context/root.tar" "$mirror"
    cp /etc/ssl/certs/ca-certificates.crt "$context/ca.crt"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$context/pip.conf"
    [ -n "${WHEELS_URL:-}" ] && echo "find-links = $WHEELS_URL" >>"$context/pip.conf"
    cat >"$context/Dockerfile" <<'EOF'
FROM scratch
ADD root.tar /
COPY ca.crt /etc/ssl/certs/ca-certificates.crt
COPY pip.conf /etc/pip.conf
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
RUN ln -s /usr/bin/python3 /usr/local/bin/python
CMD ["python3"]
EOF
    docker build --quiet --network host --tag stand-in/python "$context"
}

# prom/prometheus from this machine's Debian package: same entry point and user.
prometheus_image() {
    local context=$directory/prometheus
    mkdir -p "$context"
    command -v prometheus promtool >/dev/null || apt-get install -qq -y --no-install-recommends prometheus >/dev/null
    cp "$(command -v prometheus)" "$(command -v promtool)" "$context/"
    cat >"$context/Dockerfile" <<'EOF'
FROM stand-in/python
COPY prometheus promtool /bin/
RUN install -d -o nobody -g nogroup /prometheus
USER nobody
ENTRYPOINT ["/bin/prometheus"]
EOF
    docker build --quiet --tag stand-in/prometheus "$context"
}

down() {
    [ -f "$directory/docker.pid" ] || return 0
    local pid
    pid=$(cat "$directory/docker.pid")
    kill -TERM "$pid" 2>/dev/null || return 0
    for _ in $(seq 100); do [ -d "/proc/$pid" ] || break; sleep 0.2; done
    umount "$directory/exec/netns/default" 2>/dev/null || true
    ip link delete docker0 2>/dev/null || true
}

"$@"
