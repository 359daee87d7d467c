#!/bin/sh
# Fetch the Node binding that package-lock.json names, and compile it against the headers that lie
# beside the node in use: node-gyp would download others.
set -eu

cd "$(dirname "$0")/clients/node"
prefix=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
if [ ! -e "$prefix/include/node/node.h" ]; then
    echo "== $prefix/include/node has no headers: the test of the Node client will not run"
    exit 1
fi
echo '== the Node client'
npm ci --ignore-scripts --no-audit --no-fund --silent
NODE_HEADERS=$prefix npm run --silent build >node_modules/build.log 2>&1 || {
    cat node_modules/build.log
    exit 1
}
