"""Around every program: flags, processes, files, logs, compilations, HTML, language models at an endpoint."""
