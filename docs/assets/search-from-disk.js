// The theme's search runs in a web worker that fetches its index, which browsers refuse
// to pages opened from disk. There this stand-in answers the same messages in the page.
if (location.protocol === "file:") {
  window.Worker = class {
    postMessage(message) {
      if (message.init) {
        this.load("lunr.js", () => this.load("search_index.js", () => this.build()));
      } else if (message.query) {
        const found = this.index.search(message.query).map(({ ref }) => this.pages[ref]);
        this.onmessage({ data: { results: found } });
      }
    }

    load(name, then) {
      const script = document.createElement("script");
      script.src = `${base_url}/search/${name}`;
      script.onload = then;
      document.head.append(script);
    }

    build() {
      const { config, docs } = window.searchIndex;
      this.pages = Object.fromEntries(
        docs.map((page) => [page.location, { ...page, summary: page.text.slice(0, 200) }])
      );
      lunr.tokenizer.separator = new RegExp(config.separator);
      this.index = lunr(function () {
        this.ref("location");
        this.field("title");
        this.field("text");
        docs.forEach((page) => this.add(page));
      });
      this.onmessage({ data: { config } });
      this.onmessage({ data: { allowSearch: true } });
    }
  };
}
