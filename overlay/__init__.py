"""Keeps a series of small patches alive over pinned upstream checkouts.

The package knows git and the files under `patches/`; it imports neither torch nor `nncf_transformers`.
Its modules, from the bottom up:

    errors, pins, layout    what can go wrong, which upstreams there are, where things lie
    git, objects            git as a subprocess; reading commits, trees and blobs through GitPython
    runlock, files          one run at a time; writing files whole or not at all
    patchfile, series       one patch; the ordered patches of a pin and their lock
    mirror, fetch, folder   the cached upstream, and the two ways to fill it
    stack                   patches -> commits
    worktree                `build/<pin>/`
    apply, export, status, lint
                            what the commands do
    commands                prints what they did
"""
