package cli

// examples are shown in the help of the commands they are of, by path. A line is a
// command line, and what it does.
func examples() map[string]string {
	return map[string]string{
		"kiln launch": `kiln launch images:debian/12 c1
kiln launch debian web -c limits.memory=1GiB -p default -p web
kiln launch debian big -t c4-m8 --description "build machine"
kiln launch debian c2 < config.yaml                      # a configuration in YAML`,
		"kiln list": `kiln list                                                # all instances of the default remote
kiln list srv: web status=running
kiln list -c ns,user.role:ROLE,devices:root.size:DISK
kiln list --format json`,
		"kiln project": `kiln project create web
kiln project create ci -c features.images=false          # uses the default project's images
kiln launch debian c1 --project web                      # one command in a project
kiln project switch web                                  # all that follow
kiln list --all-projects`,
		"kiln exec": `kiln exec c1 -- bash
kiln exec c1 --user www-data --cwd /var/www -- ls -l
kiln exec c1 -T -- tar -c -C / etc > etc.tar`,
		"kiln console": `kiln console c1                                          # ctrl-a q detaches
kiln console c1 --force                                  # somebody else is attached
kiln console c1 --show-log`,
		"kiln file push": `kiln file push nginx.conf c1/etc/nginx/
kiln file push -r site c1/srv/                           # becomes /srv/site
kiln file push --mode 0755 -p run.sh c1/opt/app/run
tar -c . | kiln file push - c1/root/backup.tar`,
		"kiln file pull": `kiln file pull c1/etc/hosts .
kiln file pull c1/var/log/syslog - | grep error
kiln file pull -r c1/etc srv:c2/etc backup`,
		"kiln file create": `kiln file create c1/srv/data/                            # a directory
kiln file create --type symlink c1/etc/localtime /usr/share/zoneinfo/UTC`,
		"kiln copy": `kiln copy c1 c2                                          # with its snapshots
kiln copy c1/before-upgrade c3                           # an instance from a snapshot
kiln copy c1 srv:                                        # to another server
kiln copy srv:c1 back                                    # to the default remote`,
		"kiln file mount": `kiln file mount c1/srv /mnt                             # with sshfs, until ctrl-c
kiln file mount c1                                      # for any client of SFTP`,
		"kiln move": `kiln move c1 web                                         # rename
kiln move web srv:                                       # to another server
kiln move web --target-project prod`,
		"kiln export": `kiln export c1                                           # c1.tar.gz, with its snapshots
kiln export c1 - --instance-only --compression none | ssh host kiln import -`,
		"kiln import": `kiln import c1.tar.gz
kiln import srv: c1.tar.gz c2 -c security.syscalls.intercept.mknod=`,
		"kiln storage volume": `kiln storage volume create default data
kiln storage volume attach default data c1 /srv/data     # also several instances at once
kiln storage volume detach default data c1`,
		"kiln storage volume snapshot": `kiln storage volume snapshot default data before --expires 30d
kiln storage volume restore default data before`,
		"kiln storage volume copy": `kiln storage volume copy default/data default/other
kiln storage volume copy default/data/before default/old # a snapshot`,
		"kiln storage volume create": `kiln storage volume create default data --description "of the team"`,
		"kiln storage volume attach": `kiln storage volume attach default data c1 /srv/data
kiln storage volume attach default data c1 web /srv/www  # by a device of another name`,
		"kiln snapshot": `kiln snapshot c1                                         # named by the server
kiln snapshot c1 before-upgrade --expires 30d
kiln snapshot list c1
kiln restore c1 before-upgrade`,
		"kiln publish": `kiln publish c1 --alias golden os=debian
kiln publish c1/before-upgrade --public
kiln publish c1 srv: --alias golden                      # to another server`,
		"kiln rebuild": `kiln rebuild c1                                          # from the newest version of its image
kiln rebuild c1 images:debian/13 --force`,
		"kiln config set": `kiln config set c1 limits.cpu=2 limits.memory=1GiB
kiln config set core.https_address "[::]:8443"           # of the server
kiln config set srv: images.keep_versions=2`,
		"kiln config edit": `kiln config edit c1
kiln config show c1 | sed s/1GiB/2GiB/ | kiln config edit c1`,
		"kiln config device add": `kiln config device add c1 data disk source=/srv/data path=/data
kiln config device add c1 web proxy listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:80
kiln config device add c1 db proxy bind=instance listen=unix:/run/db.sock connect=unix:/run/postgresql/db.sock`,
		"kiln network explain": `kiln network explain c1
kiln network explain c1 --format json`,
		"kiln network forward create": `kiln network forward create kilnbr0 192.0.2.1
kiln network forward create kilnbr0 192.0.2.1 target_address=10.8.0.5`,
		"kiln network forward port add": `kiln network forward port add kilnbr0 192.0.2.1 tcp 80,443 10.8.0.5
kiln network forward port add kilnbr0 192.0.2.1 udp 5000-5010 10.8.0.5 6000-6010`,
		"kiln config trust add": `kiln config trust add --name laptop                       # shows a join token for it
kiln config trust add laptop.crt --name laptop`,
		"kiln top": `kiln top
kiln top srv: --interval 10 --format csv`,
		"kiln admin init": `kiln admin init --preseed < preseed.yaml
kiln admin init --dump > preseed.yaml
kiln admin init --auto --network-address "::"`,
		"kiln profile assign": `kiln profile assign c1 default,web`,
		"kiln image list": `kiln image list debian
kiln image list images: debian architecture=amd64
kiln image list -c lfs,properties:os:OS,A,U              # also auto-update and last use`,
		"kiln image import": `kiln image import debian.tar.xz --alias debian
kiln image import meta.tar.xz rootfs.squashfs srv: --public
kiln image import ./tree --alias mine os=debian
kiln image import https://images.example/lxd/debian`,
		"kiln image copy": `kiln image copy images:debian/12 local: --alias deb12 --auto-update
kiln image copy deb12 srv: --copy-aliases --dry-run`,
		"kiln key": `kiln key generate                                        # a key to sign images with
kiln key export default kiln.pub                         # its public part, for everybody
kiln key import ~/.minisign/minisign.key work            # keys of minisign`,
		"kiln key sign": `kiln key sign keys.json --root offline --image-key default
kiln key sign keys.json --revoke old                     # the next version`,
		"kiln key rotate": `kiln key rotate keys.json offline2`,
		"kiln key serve":  `kiln key serve srv: keys.json`,
		"kiln key lend":   `kiln key lend srv: index`,
		"kiln image sign": `kiln image sign debian
kiln image sign debian --key work --alias debian/12      # as this, whatever its aliases are`,
		"kiln image edit": `kiln image edit debian
echo "public: true" | kiln image edit debian             # the other keys stay as they are`,
		"kiln image export": `kiln image export debian .
kiln image export golden - > golden.tar.zst              # an image of one file`,
		"kiln image rollback": `kiln image rollback web
kiln image history web`,
		"kiln image prune": `kiln image prune --dry-run`,
		"kiln remote add": `kiln remote add srv 192.0.2.7 --token TOKEN
kiln remote add pub images.example --public
kiln remote add streams https://images.example --protocol simplestreams`,
		"kiln remote import": `kiln remote import                                       # from lxc and incus
kiln remote import ~/backup/lxc`,
		"kiln mirror add": `kiln mirror add images debian architecture=amd64
kiln mirror add images --pull-through`,
		"kiln scrub start": `kiln scrub start
kiln scrub start --wait                                  # exit code 7: something is damaged`,
		"kiln warning list": `kiln warning list
kiln warning list --all -c teSlm                         # with what was said`,
		"kiln query": `kiln query /1.0/images?recursion=1
kiln query -X PATCH -d '{"config":{"user.x":"y"}}' --wait /1.0/instances/c1`,
		"kiln monitor": `kiln monitor --type lifecycle --format json`,
	}
}
