package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/trust"
)

// serve asks a daemon for what image servers are asked for.
func (b *bench) serve() {
	b.exports()
	images := b.manyPublic(filepath.Join(b.dir, "kiln-public"), b.count)
	n := b.node("kiln", "kiln-public")
	b.bursts(n, images)
	b.index(n, images)
}

// worker runs this program as a worker and gives what it reports.
func (b *bench) worker(args ...string) report {
	self, err := os.Executable()
	if err != nil {
		b.fail("%v", err)
	}
	cmd := exec.Command(self, append([]string{worker}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	var r report
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err != nil {
		b.fail("worker %s: %v", args[0], err)
	}
	return r
}

// A site is a server with a file on it.
type site struct {
	name, address, path string
	pid                 int
}

// exports serves one image to some clients at once.
func (b *bench) exports() {
	file, fp, size := b.image("export", 200)
	n := b.node("kiln", "kiln-export")
	n.add(file)
	sites := append([]site{{"kiln", n.address, "/1.0/images/" + fp + "/export", n.pid}},
		b.fileServers("/"+filepath.Base(file))...)
	for _, clients := range []int{1, 8, 32} {
		fmt.Printf("\nAn image of %d MB to %d clients at once over https\n", size/1e6, clients)
		row("", "MB/s", "RSS idle", "RSS most")
		speed := map[string][]float64{}
		memory := map[string][2]float64{}
		for range b.n {
			for _, s := range sites { // in turn
				before := resident(s.pid)
				var r report
				peak := most(s.pid, func() { r = b.worker("get", s.address, s.path, strconv.Itoa(clients)) })
				if r.Errors > 0 || r.Bytes != size*int64(clients) {
					b.fail("%s sent %d bytes, %d errors", s.name, r.Bytes, r.Errors)
				}
				speed[s.name] = append(speed[s.name], float64(r.Bytes)/1e6/r.Seconds)
				memory[s.name] = [2]float64{before, max(peak, memory[s.name][1])}
			}
		}
		for _, s := range sites {
			row(s.name, median(speed[s.name]), memory[s.name][0], memory[s.name][1])
		}
		row("kiln / Go's file server", median(speed["kiln"])/median(speed["Go's file server"]))
	}
}

// fileServers are what others serve the same file with.
func (b *bench) fileServers(path string) []site {
	dir := filepath.Join(b.dir, "tls")
	if _, err := trust.Ensure(dir, "server", trust.Server); err != nil {
		b.fail("%v", err)
	}
	crt, key := dir+"/server.crt", dir+"/server.key"
	self, err := os.Executable()
	if err != nil {
		b.fail("%v", err)
	}
	address := freeAddress(b)
	sites := []site{{"Go's file server", address, path,
		b.start(strings.Join([]string{self, worker, "files", address, b.images, crt, key}, " "), "true")}}
	if _, err := exec.LookPath("nginx"); err == nil {
		address := freeAddress(b)
		conf := fmt.Sprintf(`daemon off; pid %[1]s/nginx.pid; error_log %[1]s/nginx.log; worker_processes auto; user root;
events {}
http { access_log off; sendfile on; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
server { listen %[2]s ssl; ssl_protocols TLSv1.3; ssl_certificate %[3]s; ssl_certificate_key %[4]s; root %[5]s; } }
`, dir, address, crt, key, b.images)
		if err := os.WriteFile(dir+"/nginx.conf", []byte(conf), 0o600); err != nil {
			b.fail("%v", err)
		}
		sites = append(sites, site{"nginx", address, path, b.start("nginx -p "+dir+" -c "+dir+"/nginx.conf", "true")})
	}
	time.Sleep(time.Second) // neither tells when it listens
	return sites
}

// manyPublic writes the rows of many images into the database of a daemon that
// isn't there yet.
func (b *bench) manyPublic(dir string, count int) []kiln.Image {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		b.fail("%v", err)
	}
	ctx := context.Background()
	d, err := db.Open(ctx, dir+"/kiln.db")
	if err != nil {
		b.fail("%v", err)
	}
	defer d.Close()
	list := make([]kiln.Image, count)
	err = d.Tx(ctx, func(tx *db.Tx) error {
		for i := range list {
			list[i] = publicImage(i)
			if err := tx.CreateImage(ctx, list[i]); err != nil {
				return err
			}
			alias := kiln.Alias{Name: fmt.Sprintf("os%d/%d", i%40, i), Target: list[i].Fingerprint}
			if err := tx.SetAlias(ctx, alias); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.fail("%v", err)
	}
	return list
}

func publicImage(i int) kiln.Image {
	img := kiln.Image{
		Type: "container", Architecture: "x86_64", Size: int64(i), Public: true, Profiles: []string{"default"},
		CreatedAt: time.Unix(int64(1_700_000_000+i*60), 0), UploadedAt: time.Now(),
		Properties: map[string]string{"os": fmt.Sprintf("os%d", i%40), "release": strconv.Itoa(i / 40), "variant": "default",
			"serial": strconv.Itoa(20_260_000 + i), "description": fmt.Sprintf("os%d %d", i%40, i/40)},
		Files: []kiln.File{{Role: kiln.Metadata, Name: "meta.tar.xz", Ext: ".tar.xz", Size: 700},
			{Role: kiln.Rootfs, Name: "root.squashfs", Ext: ".squashfs", Size: int64(i) + 1}},
	}
	for _, fp := range []*kiln.Fingerprint{&img.Fingerprint, &img.Files[0].Hash, &img.Files[1].Hash} {
		for j := range fp {
			fp[j] = byte(rand.Uint32())
		}
	}
	return img
}

// bursts asks for images over connections that are there already, all at once.
func (b *bench) bursts(n *node, images []kiln.Image) {
	const clients = 1000
	fmt.Printf("\n%d untrusted clients ask at the same moment, of %d images (ms)\n", clients, len(images))
	row("GET /1.0/images/…", "p50", "p99", "errors")
	var different []string
	for _, img := range images[:min(clients, len(images))] {
		different = append(different, "/1.0/images/"+img.Fingerprint.String())
	}
	for name, paths := range map[string][]string{"  the same image": different[:1], "  each another one": different} {
		var p50, p99 []float64
		failed := int64(0)
		for range b.n {
			r := b.worker("burst", n.address, strings.Join(paths, ","), strconv.Itoa(clients))
			p50, p99, failed = append(p50, r.P50*1000), append(p99, r.P99*1000), failed+r.Errors
		}
		row(name, median(p50), median(p99), failed)
	}
}

// index asks for the list of images as simplestreams has it.
func (b *bench) index(n *node, images []kiln.Image) {
	const path, zipped = "/streams/v1/images.json", "Accept-Encoding: gzip"
	fmt.Printf("\nSimplestreams of %d images\n", len(images))
	var first []float64
	for i := range b.n {
		n.do(fmt.Sprintf("image alias create change%d %s", i, images[i].Fingerprint))
		r := b.worker("get", n.address, path, "1", zipped)
		first = append(first, r.Seconds)
	}
	row("the first after a change, s", median(first))
	r := b.worker("get", n.address, path, "1", zipped)
	row("  its size with gzip, MB", float64(r.Bytes)/1e6)
	row("", "per s", "MB/s", "errors")
	tag := b.must(fmt.Sprintf("curl -sk -o /dev/null -D - --compressed https://%s%s | tr -d '\\r' | sed -n "+
		"'s/^[Ee][Tt]ag: //p'", n.address, path))
	for _, c := range []struct{ name, header string }{{"from memory", zipped},
		{"  to who has it already", zipped + "\r\nIf-None-Match: " + tag}} {
		var rate, speed []float64
		failed := int64(0)
		for range b.n {
			r := b.worker("rate", n.address, path, "16", c.header)
			rate, speed, failed = append(rate, float64(r.Requests)/r.Seconds), append(speed, float64(r.Bytes)/1e6/r.Seconds),
				failed+r.Errors
		}
		row(c.name, median(rate), median(speed), failed)
	}
}
